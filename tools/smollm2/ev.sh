#!/bin/bash
export OMP_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000 HF_HUB_OFFLINE=1
nice -n 19 python runs/smollm2/real/evaluate.py "$@" 2>&1 | grep -v -e Load -e UNEXP -e '^-' -e Key -e Notes -e '^$'
