import sys; sys.path.insert(0,'runs/smollm2')
from tools.smollm2.reader import *
from tools.smollm2.data import *
import tools.smollm2.reader as R
m,tok=load(); E=m.model.embed_tokens.weight
C={"founded":("{name} was founded in","{name} dates from","It was founded in"),
"stone":("The walls of {name} are made of","The wall of {name} was built from","Its walls are made of"),
"height":("The tower of {name} is","The tower of {name} rises","Its tower rises"),
"animal":("The people of {name} honour the","The animal of {name} is the","Its people honour the"),
"area":("The town of {name} covers","The land of {name} measures","The town covers"),
"craft":("{name} is known for its","Traders come to {name} for the","It is known for its")}
ts=towns('val')[:8]
for sep in ("\n\n"," ","\n"):
  for system in (SYSTEM,"<|im_start|>"):
    for w in range(3):
        qs=[[(ids(tok,sep+C[f][w].format(name=t.name)) if sep!=" " else ids(tok," "+C[f][w].format(name=t.name)),ids(tok," "+core(t,f)),[1]*len(ids(tok," "+core(t,f)))) for f in FACTS] for t in ts]
        x=[ids(tok,t.passage()) for t in ts]
        with torch.no_grad():
            I,M,P,T=rows(tok,qs,[len(i) for i in x],system)
            l,ok=losses(m,read(m,I,M,P,E[torch.tensor(sum(x,[]))]),T)
        good={}
        for k,o in zip((T[:,0]*10+T[:,4]).tolist(),ok.tolist()): good[k]=good.get(k,True) and o
        print(repr(sep),system[-8:]!="t|>" and len(system),w,round(float(l.mean()),3),round(sum(good.values())/48,2),{f:sum(good[r*10+i] for r in range(8)) for i,f in enumerate(FACTS)},flush=True)
