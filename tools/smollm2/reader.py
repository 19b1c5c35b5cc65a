"""The frozen reader and packed rows: [system, user] [memories] [question+answer]…, questions of a row do not see each other."""
from __future__ import annotations
import os
os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch
import torch.nn.functional as F
from torch import Tensor
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
from transformers import AutoModelForCausalLM, AutoTokenizer
from tools.smollm2.data import FACTS, QUESTIONS, core

PATH = os.environ.get("REAL_MODEL", "runs/smollm2/model")
SYSTEM = "<|im_start|>system\nAnswer from the text in one sentence.<|im_end|>\n<|im_start|>user\n"
# The reader's own wording under plain RAG (real/rag.py, logs/rag1.log), by question wording.
ANSWERS = {
    "founded": ("{name} was founded in {value}.", "The year that {name} dates from is {value}."),
    "stone": ("The walls of {name} are made of {value}.", "The material used for the wall of {name} is {value}."),
    "height": ("The tower of {name} is {value} high.", "The height of the tower in {name} is {value}."),
    "animal": ("The people of {name} honour the {value}.", "The animal of {name} is the {value}."),
    "area": ("The land of {name} is approximately {value}.", "The area of {name} is approximately {value}."),
    "craft": ("{name} is known for its {value}.", "Traders come to {name} for {value}."),
}

def load(path=PATH, layers=None):
    tok = AutoTokenizer.from_pretrained(path)
    kw = {} if layers is None else {"num_hidden_layers": layers}
    m = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16, attn_implementation="eager", **kw).eval()
    m.requires_grad_(False)
    return m, tok

_cache: dict = {}
def ids(tok, text):
    if text not in _cache:
        if len(_cache) > 300000: _cache.clear()
        _cache[text] = tok(text, add_special_tokens=False)["input_ids"]
    return _cache[text]

def value_text(town, fact):
    return town.value(fact).replace(" m", " meters") if fact == "height" else town.value(fact)

def qa(tok, town, fact, w):
    """(question ids incl. the assistant's mark, answer ids incl. <|im_end|>, mask of the value's tokens)."""
    q = ids(tok, f"\n\n{QUESTIONS[fact][w].format(name=town.name)}<|im_end|>\n<|im_start|>assistant\n")
    head, _, tail = ANSWERS[fact][w].format(name=town.name, value="\0").partition("\0")
    v = core(town, fact)
    whole = value_text(town, fact)
    a = ids(tok, head.rstrip()), ids(tok, " " + v), ids(tok, whole[len(v):] + tail + "<|im_end|>")
    # " 46": the space is a token of its own before digits in this vocabulary or part of the word; both are values' tokens
    return q, a[0] + a[1] + a[2], [0] * len(a[0]) + [1] * len(a[1]) + [0] * len(a[2])

CLOZE = {
    "founded": ("{name} was founded in", "{name} dates from", "It was founded in"),
    "stone": ("The walls of {name} are made of", "The wall of {name} was built from", "Its walls are made of"),
    "height": ("The height of the tower in {name} is", "The tower of {name} rises", "Its tower rises"),
    "animal": ("The people of {name} honour the", "The animal of {name} is the", "Its people honour the"),
    "area": ("The town of {name} covers", "The land of {name} measures", "The town covers"),
    "craft": ("{name} is known for its", "Traders come to {name} for the", "It is known for its"),
}

def cloze(tok, town, fact, w):
    """A sentence that the user goes on with: the same copying as an answer's, a third of the tokens. No question, no marks."""
    v = ids(tok, " " + core(town, fact))
    return ids(tok, "\n\n" + CLOZE[fact][w].format(name=town.name)), v, [1] * len(v)

FRONT = False  # memory before everything instead of where RAG has the passage (ablation)

def rows(tok, questions, sizes, system=SYSTEM):
    """questions: per row a list of (q ids, a ids, value mask); sizes: memory length per row.
    Returns ids (b, L) with -1 at memory, mask (b,1,L,L) additive, positions, targets (row, col, id, is_value, question no)."""
    pre = ids(tok, system)
    built = []
    for qs, m in zip(questions, sizes):
        t = [-1] * m + pre if FRONT else pre + [-1] * m; block = [0] * len(t); pos = list(range(len(t))); base = len(t); tg = []
        for n, (q, a, v) in enumerate(qs):
            start = len(t)
            t = t + q + a; block += [n + 1] * (len(q) + len(a)); pos += range(base, base + len(q) + len(a))
            first = start + len(q) - 1
            tg += [(first + i, x, y, n) for i, (x, y) in enumerate(zip(a, v))]
        built.append((t, block, pos, tg))
    L = max(len(t) for t, *_ in built); b = len(built)
    I = torch.zeros(b, L, dtype=torch.long); P = torch.zeros(b, L, dtype=torch.long); B = torch.full((b, L), -5)
    T = []
    for r, (t, block, pos, tg) in enumerate(built):
        I[r, :len(t)] = torch.tensor(t); P[r, :len(t)] = torch.tensor(pos); B[r, :len(t)] = torch.tensor(block)
        T += [(r, c, x, y, n) for c, x, y, n in tg]
    ok = ((B[:, None, :] == 0) | (B[:, None, :] == B[:, :, None])) & torch.ones(L, L, dtype=torch.bool).tril()
    mask = torch.zeros(b, 1, L, L, dtype=torch.bfloat16).masked_fill(~ok[:, None], -1e9)
    return I, mask, P, torch.tensor(T)

def read(model, I, mask, P, memory):
    """memory: (total, d) in row order. Returns final hidden states (b, L, d)."""
    e = model.model.embed_tokens(I.clamp(min=0))
    e = e.masked_scatter((I == -1)[..., None], memory.to(e.dtype))
    return model.model(inputs_embeds=e, attention_mask=mask, position_ids=P, use_cache=False).last_hidden_state

def losses(model, hidden, T):
    """Cross-entropy per target (n,) and whether each is the argmax."""
    h = hidden[T[:, 0], T[:, 1]]
    logits = (h @ model.lm_head.weight.T).float()
    return F.cross_entropy(logits, T[:, 2], reduction="none"), logits.detach().argmax(-1) == T[:, 2]
