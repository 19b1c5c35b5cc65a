"""A retriever: the items whose passages share the most rare words with the question; no image is needed.

comem predict --plugin examples/plugins/retriever_by_words.py --retriever by_words --index corpus …
"""

import math
import re
from collections import Counter

from comem.retrieval.knowledge import KnowledgeBase
from comem.retrieval.retriever import RETRIEVERS, Retriever
from comem.types import RetrievedContext


def words(text):
    return set(re.findall(r"\w+", text.lower()))


class ByWords(Retriever):
    name = "by_words"

    def __init__(self, settings):
        super().__init__(KnowledgeBase(settings.index_folder))
        items = self.base.items(range(len(self.base)))
        self.items = [(item, words(item.text)) for item in items]
        counts = Counter(word for _, found in self.items for word in found)
        self.rarity = {word: math.log(len(items) / count) for word, count in counts.items()}

    def retrieve(self, examples, k, languages=None):
        return {example.id: self.best(example, k) for example in examples}

    def best(self, example, k):
        asked = words(example.question)
        scored = [(sum(self.rarity[w] for w in sorted(asked & found)), item) for item, found in self.items]
        top = sorted(scored, key=lambda pair: (-pair[0], pair[1].id))[:k]
        return RetrievedContext(example.id, tuple(item for _, item in top), tuple(score for score, _ in top))


RETRIEVERS.register("by_words", ByWords)
