"""python -m tools.smollm2.train OUT --schedule 0:32,150:24 --minutes 20 … ; the same again goes on from the last checkpoint."""
import argparse, json, os, random, sys, time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tools.smollm2.reader import *
from tools.smollm2.data import *
from tools.smollm2.encoder import Encoder

p = argparse.ArgumentParser()
p.add_argument("out"); p.add_argument("--schedule", default="0:32"); p.add_argument("--minutes", type=float, default=10)
p.add_argument("--steps", type=int, default=100000)
p.add_argument("--batch", type=int, default=8); p.add_argument("--layers", type=int, default=10); p.add_argument("--rank", type=int, default=16)
p.add_argument("--depth", type=int, default=2); p.add_argument("--muon", type=float, default=0.01); p.add_argument("--lr", type=float, default=1e-3)
p.add_argument("--lora-lr", type=float, default=1e-3); p.add_argument("--warmup", type=int, default=10); p.add_argument("--seed", type=int, default=0)
p.add_argument("--format-weight", type=float, default=0.15); p.add_argument("--tail", type=float, default=0.25, help="share of questions whose sentence is asked to its end"); p.add_argument("--facts", type=int, default=6)
p.add_argument("--three", type=float, default=0.0, help="share of steps whose rows have three items")
p.add_argument("--init", default=""); p.add_argument("--eval-every", type=int, default=25); p.add_argument("--save-minutes", type=float, default=3)
p.add_argument("--restore", type=float, default=0.0, help="weight of restoring the passage")
p.add_argument("--asked", type=float, default=1, help="questions a row (a share: of the steps have one); the other facts are sentences to go on with")
p.add_argument("--decay", default="", help="step:step, linear decay of all rates to a tenth between them")
p.add_argument("--start", default="stretch", choices=("stretch", "alike")); p.add_argument("--front", action="store_true")
a = p.parse_args()
import tools.smollm2.reader
tools.smollm2.reader.FRONT = a.front
out = Path(a.out); out.mkdir(parents=True, exist_ok=True)
torch.manual_seed(a.seed)
reader, tok = load(); lower, _ = load(layers=a.layers)
enc = Encoder(lower, a.rank, depth=a.depth, start=a.start, queries=int(a.schedule.split(":")[1].split(",")[0].split("|")[0]))
params = enc.trained()
matrix = lambda k, v: v.ndim == 2 and k.startswith("former") and "place" not in k and "latents" not in k
groups = {"muon": [v for k, v in params.items() if matrix(k, v)],
          "adam": [v for k, v in params.items() if k.startswith("former") and not matrix(k, v)],
          "lora": [v for k, v in params.items() if k.startswith("lora")]}
opts = []
if a.muon: opts.append(torch.optim.Muon(groups["muon"], lr=a.muon, weight_decay=0.0, momentum=0.9, adjust_lr_fn="original", ns_steps=4))
else: groups["adam"] += groups["muon"]
opts.append(torch.optim.AdamW([{"params": groups["adam"], "lr": a.lr}] + ([{"params": groups["lora"], "lr": a.lora_lr}] if a.rank else []), betas=(0.9, 0.98), weight_decay=0.0))
for o in opts:
    for g in o.param_groups: g["base"] = g["lr"]
name_of = {id(v): k for k, v in params.items()}
step = 0; ck = out / "last.safetensors"; log = open(out / "log.jsonl", "a")
def put(tensors, moments=True):
    with torch.no_grad():
        for k, v in params.items(): v.copy_(tensors[k])
    if moments:
        for i, o in enumerate(opts):
            for g in o.param_groups:
                for v in g["params"]:
                    s = {k.split("|")[2]: t for k, t in tensors.items() if k.startswith(f"opt{i}|{name_of[id(v)]}|")}
                    if s: o.state[v] = s
def save(path):
    t = {k: v.detach() for k, v in params.items()}
    for i, o in enumerate(opts):
        for g in o.param_groups:
            for v in g["params"]:
                for k, x in o.state.get(v, {}).items(): t[f"opt{i}|{name_of[id(v)]}|{k}"] = torch.as_tensor(x).clone()
    t["step"] = torch.tensor(step); tmp = str(path) + ".tmp"; save_file(t, tmp); os.replace(tmp, path)
if ck.exists():
    t = load_file(ck); step = int(t["step"]); put(t)
elif a.init: put(load_file(a.init), False)
log.write(json.dumps({"start": step, "args": vars(a), "trainable": sum(v.numel() for v in params.values())}) + "\n"); log.flush()
schedule = [(int(s.split(":")[0]), [int(x) for x in s.split(":")[1].split("|")]) for s in a.schedule.split(",")]  # "200:8|8|16": drawn by step
train = towns("train"); val = towns("val")[:16]
REPEAT = "\n\nRepeat the text.<|im_end|>\n<|im_start|>assistant\n"

def batch(rng, step, q):
    k = 3 if rng.random() < a.three else 1
    per_row = int(a.asked) + (rng.random() < a.asked % 1)
    items, questions, sizes = [], [], []
    for r in range(max(1, a.batch // (2 if k == 3 else 1))):
        ts = [fresh(t, rng.randrange(1 << 30)) for t in rng.sample(train, k)]
        items += [ids(tok, t.passage()) for t in ts]
        asked = [(t, f) for t in ts for f in FACTS]
        if k > 1: asked = rng.sample(asked, 2 * k + 2)
        elif a.facts < 6: asked = rng.sample(asked, a.facts)
        qs = []
        whole = set(rng.sample(range(len(asked)), min(len(asked), per_row * k)))
        for i, (t, f) in enumerate(asked):
            if i not in whole:
                qs.append(cloze(tok, t, f, rng.randrange(3 if k == 1 else 2))); continue
            qq, aa, vv = qa(tok, t, f, rng.randrange(2))
            if rng.random() > a.tail:
                last = max(i for i, v in enumerate(vv) if v); aa, vv = aa[:last + 1], vv[:last + 1]
            qs.append((qq, aa, vv))
        if a.restore and k == 1: qs.append((ids(tok, REPEAT), items[-1], [2] * len(items[-1])))
        questions.append(qs); sizes.append(q * k)
    return items, questions, sizes

@torch.no_grad()
def evaluate(q, k=1, w=None):
    enc.eval(); rng = random.Random(7); good, n, tot, per = 0, 0, 0.0, {f: [0, 0] for f in FACTS}
    for s in range(0, len(val), 8):
        part = val[s:s + 8]; items, questions, sizes = [], [], []
        for i, t in enumerate(part):
            ts = [t] + (rng.sample([x for x in val if x is not t], k - 1)); rng.shuffle(ts)
            items += [ids(tok, x.passage()) for x in ts]; sizes.append(q * k)
            questions.append([qa(tok, t, f, (s + i + j) % 2) for j, f in enumerate(FACTS)])
        I, M, P, T = rows(tok, questions, sizes)
        l, ok = losses(reader, read(reader, I, M, P, enc(items, q).flatten(0, 1)), T)
        v = T[:, 3] == 1; tot += float(l[v].mean()) * len(part) / len(val); res = {}
        for key, o in zip((T[:, 0] * 10 + T[:, 4])[v].tolist(), ok[v].tolist()): res[key] = res.get(key, True) and o
        for key, o in res.items(): f = FACTS[key % 10]; per[f][0] += o; per[f][1] += 1
    return {"value_nll": round(tot, 3), "forced": round(sum(x for x, _ in per.values()) / sum(y for _, y in per.values()), 3), "per": {f: round(x / y, 2) for f, (x, y) in per.items()}}

import signal
stop = []; signal.signal(signal.SIGTERM, lambda *_: stop.append(1))   # finish the step, save, leave
began = saved = time.time()
while not stop and step < a.steps and time.time() - began < 60 * a.minutes:
    now = [x for s, x in schedule if s <= step][-1]; q = random.Random(f"q/{a.seed}/{step}").choice(now); t0, c0 = time.time(), time.process_time()
    if step % a.eval_every == 0:
        r = {"step": step, "q": now[0], **evaluate(now[0])}
        if a.three: r["three"] = evaluate(now[0], 3)
        log.write(json.dumps({"eval": r}) + "\n"); log.flush(); t0, c0 = time.time(), time.process_time()
    rng = random.Random(f"{a.seed}/{step}")
    items, questions, sizes = batch(rng, step, q)
    I, M, P, T = rows(tok, questions, sizes)
    mem = enc(items, q); c1 = time.process_time()
    l, ok = losses(reader, read(reader, I, M, P, mem.flatten(0, 1)), T)
    v, fmt, res = T[:, 3] == 1, T[:, 3] == 0, T[:, 3] == 2
    loss = (l[v].sum() + a.format_weight * l[fmt].sum()) / (v.sum() + a.format_weight * fmt.sum())
    if a.restore and res.any(): loss = loss + a.restore * l[res].mean()
    for o in opts: o.zero_grad(set_to_none=True)
    c2 = time.process_time(); loss.backward(); c3 = time.process_time()
    norm = torch.nn.utils.clip_grad_norm_(list(params.values()), 1.0)
    warm = min(1.0, (step + 1) / a.warmup)
    if a.decay:
        d0, d1 = map(int, a.decay.split(":")); warm *= 1 - 0.9 * min(1.0, max(0.0, (step - d0) / (d1 - d0)))
    for o in opts:
        for g in o.param_groups: g["lr"] = g["base"] * warm
        o.step()
    step += 1
    e = {"step": step, "q": q, "k": len(items) // len(sizes), "value": round(float(l.detach()[v].mean()), 3), "format": round(float(l.detach()[fmt].mean()), 3) if fmt.any() else 0, "acc": round(float(ok[v].float().mean()), 3),
         "norm": round(float(norm), 2), "mem": round(float(mem.detach().norm(dim=-1).mean()), 2), "s": round(time.time() - t0, 1), "cpu": [round(x, 1) for x in (c1 - c0, c2 - c1, c3 - c2, time.process_time() - c3)], "L": I.shape[1]}
    if res.any(): e["restore"] = round(float(l[res].mean()), 3)
    log.write(json.dumps(e) + "\n"); log.flush()
    if time.time() - saved > 60 * a.save_minutes: save(ck); saved = time.time()
save(ck)
if not stop: log.write(json.dumps({"eval": {"step": step, "q": now[0], **evaluate(now[0])}}) + "\n")
log.close()
