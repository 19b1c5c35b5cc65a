import sys, time, json, random
sys.path.insert(0,'runs/smollm2')
import torch
torch.set_num_threads(1)
from transformers import AutoModelForCausalLM, AutoTokenizer
from tools.smollm2.data import *
p='runs/smollm2/model'
t=AutoTokenizer.from_pretrained(p, padding_side='left')
m=AutoModelForCausalLM.from_pretrained(p,dtype=torch.bfloat16).eval()
SYS={'default':'<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n','none':'',
 'short':'<|im_start|>system\nAnswer from the text in one sentence.<|im_end|>\n'}
def prompt(style, passages, q):
    body=("\n\n".join(passages)+"\n\n"+q) if passages else q
    return SYS[style]+f"<|im_start|>user\n{body}<|im_end|>\n<|im_start|>assistant\n"
def gen(prompts, bs=12, n=28):
    out=[]
    for i in range(0,len(prompts),bs):
        b=t(prompts[i:i+bs],return_tensors='pt',padding=True)
        with torch.no_grad(): g=m.generate(**b,max_new_tokens=n,do_sample=False,pad_token_id=2,eos_token_id=2)
        out+=[t.decode(x[b['input_ids'].shape[1]:],skip_special_tokens=True).strip() for x in g]
    return out
if __name__=='__main__':
    ts=towns('test')[:10]; rng=random.Random(0); every=towns('test')
    qs=[(a,f,QUESTIONS[f][w]) for a in ts for f in FACTS for w in (0,1)]
    if len(sys.argv)>2 and sys.argv[2]=='three': qs=qs[::2]
    for style in sys.argv[1].split(','):
        s=time.time(); ps=[]
        for a,f,q in qs:
            items=[a]
            if len(sys.argv)>2 and sys.argv[2]=='three':
                items+=rng.sample([e for e in every if e!=a],2); rng.shuffle(items)
            pas=[] if len(sys.argv)>2 and sys.argv[2]=='base' else [e.passage() for e in items]
            ps.append(prompt(style,pas,q.format(name=a.name)))
        o=gen(ps)
        per={f:[sum(right(x,a,g) for x,(a,g,_) in zip(o,qs) if g==f),sum(g==f for _,g,_ in qs)] for f in FACTS}
        print(style,sys.argv[2:],sum(right(x,a,f) for x,(a,f,_) in zip(o,qs))/len(qs),sum(official(x,a,f) for x,(a,f,_) in zip(o,qs))/len(qs),per,round(time.time()-s),flush=True)
        for x,(a,f,q) in list(zip(o,qs))[:36]: print('   ',right(x,a,f),f,a.value(f),'|',q.format(name=a.name),'|',x)
    print(ts[0].passage(), len(t(ts[0].passage())['input_ids']))
