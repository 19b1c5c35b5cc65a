"""Entity linking for OVEN: an answer's text to the Wikidata id of a Wikipedia title, by BM25."""
