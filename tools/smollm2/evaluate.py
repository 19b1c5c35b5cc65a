"""Answers by generation about towns never seen: python -m tools.smollm2.evaluate CKPT|rag|none --q 8 --items 1 --towns 16. Appends to out/eval.jsonl."""
import argparse, json, random, sys, time

import torch
from safetensors.torch import load_file
from tools.smollm2.reader import *
from tools.smollm2.data import *
from tools.smollm2.encoder import Encoder
p = argparse.ArgumentParser(); p.add_argument("what"); p.add_argument("--q", type=int, default=8); p.add_argument("--items", type=int, default=1)
p.add_argument("--towns", type=int, default=16); p.add_argument("--layers", type=int, default=6); p.add_argument("--rank", type=int, default=16); p.add_argument("--depth", type=int, default=2)
p.add_argument("--split", default="test"); p.add_argument("--tokens", type=int, default=28); p.add_argument("--bs", type=int, default=16); p.add_argument("--show", type=int, default=0)
a = p.parse_args()
reader, tok = load(); step = None
if a.what not in ("rag", "none"):
    lower, _ = load(layers=a.layers); enc = Encoder(lower, a.rank, depth=a.depth); t = load_file(a.what); step = int(t["step"])
    with torch.no_grad():
        for k, v in enc.trained().items(): v.copy_(t[k])
every = towns(a.split); asked = []
for i, t in enumerate(every[:a.towns]):
    rng = random.Random(f"others/{i}"); ts = [t] + rng.sample([x for x in every if x is not t], a.items - 1); rng.shuffle(ts)
    asked += [(t, f, QUESTIONS[f][(i + j) % 2].format(name=t.name), ts) for j, f in enumerate(FACTS)]
E = reader.model.embed_tokens; pre = E(torch.tensor(ids(tok, SYSTEM))); out = []; began = time.time()
with torch.no_grad():
    if step is not None:
        need = {t.id: t for *_, ts in asked for t in ts}; mem = {}; keys = list(need)
        for s in range(0, len(keys), 16):
            for k, m in zip(keys[s:s + 16], enc([ids(tok, need[k].passage()) for k in keys[s:s + 16]], a.q)): mem[k] = m.bfloat16()
    for s in range(0, len(asked), a.bs):
        rows_ = []
        for t, f, q, ts in asked[s:s + a.bs]:
            end = E(torch.tensor(ids(tok, ("\n\n" if a.what != "none" else "") + q + "<|im_end|>\n<|im_start|>assistant\n")))
            know = {"none": [], "rag": [E(torch.tensor(ids(tok, "\n\n".join(x.passage() for x in ts))))]}.get(a.what) if step is None else [mem[x.id] for x in ts]
            rows_.append(torch.cat([pre, *know, end]))
        L = max(map(len, rows_)); e = torch.zeros(len(rows_), L, pre.shape[1], dtype=torch.bfloat16); M = torch.zeros(len(rows_), L, dtype=torch.long)
        for r, x in enumerate(rows_): e[r, L - len(x):] = x; M[r, L - len(x):] = 1
        g = reader.generate(inputs_embeds=e, attention_mask=M, max_new_tokens=a.tokens, do_sample=False, pad_token_id=2, eos_token_id=2)
        out += [tok.decode(x, skip_special_tokens=True).strip() for x in g]
ok = torch.tensor([float(right(o, t, f)) for o, (t, f, *_) in zip(out, asked)]); off = torch.tensor([float(official(o, t, f)) for o, (t, f, *_) in zip(out, asked)])
gen = torch.Generator().manual_seed(0); boot = ok[torch.randint(len(ok), (2000, len(ok)), generator=gen)].mean(1).quantile(torch.tensor([.025, .975]))
per = {f: round(float(ok[[x[1] == f for x in asked]].mean()), 2) for f in FACTS}
r = {"what": a.what, "step": step, "q": a.q if step is not None else None, "items": a.items, "split": a.split, "n": len(ok), "exact": round(100 * float(ok.mean()), 1), "ci": [round(100 * float(x), 1) for x in boot], "official": round(100 * float(off.mean()), 1), "per": per, "s": round(time.time() - began)}
open("runs/smollm2/eval.jsonl", "a").write(json.dumps(r) + "\n"); print(json.dumps(r))
for o, (t, f, q, _) in list(zip(out, asked))[:a.show]: print("  ", right(o, t, f), t.value(f), "|", q, "|", o)
