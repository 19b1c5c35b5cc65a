#!/bin/bash
# What goes on in the background: first two ablations, then the long run b1 (from a1's step 282: half of the steps with three items, 4, 8 and 16 vectors), then the other ablations. Each resumes.
cd runs/smollm2
export OMP_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000 HF_HUB_OFFLINE=1
arm() { n=$1; shift; grep -q '"step": 45,' out/abl_$n/log.jsonl 2>/dev/null || nice -n 19 python -m tools.smollm2.train out/abl_$n --layers 6 --batch 8 --steps 45 --minutes 60 --eval-every 1000 --asked 1 "$@" >> logs/abl.err 2>&1; }
arm base8    --schedule 0:8
arm alike32  --schedule 0:32 --start alike
nice -n 19 python -m tools.smollm2.train out/b1 --schedule "0:8,282:8|8|8|16|4" --batch 8 --layers 6 --facts 4 --asked 3 --eval-every 100 --minutes 600 --three 0.5 --format-weight 0.3 --tail 0.6 --muon 0.006 --lr 6e-4 --lora-lr 6e-4 --decay 800:1000 --steps 1000 >> logs/b1.err 2>&1
./queue.sh
