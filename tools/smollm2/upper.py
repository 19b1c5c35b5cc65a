"""Free vectors fitted to the frozen reader, item by item (upper bound), and what no training gives."""
import sys, time, json, random

import torch
from tools.smollm2.reader import *
from tools.smollm2.data import *
q = int(sys.argv[1]); steps = int(sys.argv[2]); n = int(sys.argv[3]); lr = float(sys.argv[4]); what = sys.argv[5] if len(sys.argv) > 5 else "w0"
m, tok = load()
E = m.model.embed_tokens.weight; norm = E.float().norm(dim=-1).mean(); 
ts = towns("test")[:n]
text = [ids(tok, t.passage()) for t in ts]
def means(x, q):
    l = len(x); e = E[torch.tensor(x)].float()
    return torch.stack([e[j * l // q: max((j + 1) * l // q, j * l // q + 1)].mean(0) for j in range(q)])
def evaluate(mem, w, form=qa):
    with torch.no_grad():
        qs = [[form(tok, t, f, w) for f in FACTS] for t in ts]
        I, M, P, T = rows(tok, qs, [len(x) for x in mem])
        l, ok = losses(m, read(m, I, M, P, torch.cat(mem)), T)
        v = T[:, 3] == 1
        key = T[:, 0] * 100 + T[:, 4]
        good = {int(k): True for k in key}
        for k, o in zip(key[v].tolist(), ok[v].tolist()): good[k] &= o
        per = {f: sum(good[r * 100 + i] for r in range(n)) / n for i, f in enumerate(FACTS)}
        return dict(nll=round(float(l.mean()), 3), value=round(float(l[v].mean()), 3), right=round(sum(good.values()) / len(good), 3), per={k: round(x, 2) for k, x in per.items()})
print("norm", float(norm), "text tokens", [len(x) for x in text])
print("nothing", evaluate([E[:0].float() for _ in ts], 0))
print("text", evaluate([E[torch.tensor(x)].float() for x in text], 0))
for w in (0, 1): print("text, cloze", w, evaluate([E[torch.tensor(x)].float() for x in text], w, cloze), flush=True)
print("text w1", evaluate([E[torch.tensor(x)].float() for x in text], 1))
for k in ():
    if k in (64, 32, q):
        mm = [means(x, min(k, len(x))) for x in text]
        print("means", k, evaluate(mm, 0), "renormed", evaluate([x / x.norm(dim=-1, keepdim=True) * norm for x in mm], 0), flush=True)
if steps:
    mem = torch.stack([means(x, q) for x in text]); mem = (mem / mem.norm(dim=-1, keepdim=True) * norm)
    p = torch.nn.Parameter(mem.clone()); opt = torch.optim.Adam([p], lr=lr)
    s = time.time(); c = time.process_time()
    for i in range(steps + 1):
        if what == "text":   # restore the passage
            qs = [[(ids(tok, "\n\nRepeat the text.<|im_end|>\n<|im_start|>assistant\n"), x + ids(tok, "<|im_end|>"), [1] * (len(x) + 1))] for x in text]
        else:
            qs = [[(cloze if what == 'cloze' else qa)(tok, t, f, 0) for f in FACTS] for t in ts]
        I, M, P, T = rows(tok, qs, [q] * n)
        l, ok = losses(m, read(m, I, M, P, p.flatten(0, 1)), T)
        if i % 20 == 0: print(i, round(time.process_time() - c), "loss", round(float(l.detach().mean()), 3), "w0", evaluate(list(p.detach()), 0), "w1", evaluate(list(p.detach()), 1) if i % 60 == 0 else 0, "norm", float(p.norm(dim=-1).mean()), flush=True)
        opt.zero_grad(); l[T[:, 3] == 1].mean().backward() if what == "w0v" else l.mean().backward(); opt.step()
