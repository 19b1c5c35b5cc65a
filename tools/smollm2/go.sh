#!/bin/bash
# go.sh OUT args…: one thread, lowest priority, glibc keeps its pages
export OMP_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000 HF_HUB_OFFLINE=1
cd runs/smollm2
nohup nice -n 19 python -m tools.smollm2.train "$@" >> logs/$(basename $1).err 2>&1 &
echo $! > $1.pid
