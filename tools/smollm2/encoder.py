"""Passage -> q vectors: the reader's lower layers with LoRA, and a former whose queries start as means of stretches of the text."""
from __future__ import annotations
import torch, torch.nn.functional as F
from torch import Tensor, nn
from comem.memory.lora import LoraSettings, add_lora, adapters_on, lora_state, load_lora_state

class Block(nn.Module):
    def __init__(self, d, heads, ff):
        super().__init__()
        self.heads = heads
        self.nq, self.nm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(d, ff * d), nn.Linear(ff * d, d, bias=False)
        nn.init.zeros_(self.o.weight); nn.init.zeros_(self.down.weight)

    def forward(self, z, x, bias):
        n, q, d = z.shape
        s = self.nq(z); src = torch.cat([x, s], 1)
        sp = lambda t: t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        a = sp(self.q(s)) @ sp(self.k(src)).transpose(-1, -2) * (d // self.heads) ** -0.5
        a = (a.float() + bias).softmax(-1).to(z.dtype)
        z = z + self.o((a @ sp(self.v(src))).transpose(1, 2).flatten(2))
        return z + self.down(F.gelu(self.up(self.nm(z))))

class Former(nn.Module):
    def __init__(self, d=576, depth=2, heads=9, ff=2, scale=3.2, start="stretch"):
        super().__init__()
        self.heads, self.scale = heads, scale
        self.nh, self.ne = nn.LayerNorm(d), nn.LayerNorm(d)
        self.inh, self.ine = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.place = nn.Parameter(torch.randn(64, d) * 0.02)   # a token's distance to its stretch's end
        self.skip = nn.Linear(d, d, bias=False); nn.init.zeros_(self.skip.weight)  # mean of hidden states -> latent
        self.latents = nn.Parameter(torch.zeros(64, d))
        self.blocks = nn.ModuleList(Block(d, heads, ff) for _ in range(depth))

    def forward(self, e, h, lengths, q):
        """e, h (n, l, d) -> (n, q, d)."""
        n, l, d = e.shape
        t = torch.arange(l)[None, :]; L = torch.tensor(lengths)[:, None]
        own = (t * q // L).clamp(max=q - 1)                        # (n, l): stretch of a token; needs q <= length
        S = F.one_hot(own, q).float() * (t < L)[..., None]         # (n, l, q)
        Sm = (S / S.sum(1, keepdim=True).clamp(min=1)).transpose(1, 2).to(e.dtype)
        end = ((own + 1) * L + q - 1) // q - 1
        place = self.place[(end - t).clamp(0, 63)].to(e.dtype)
        eh, ee = self.nh(h), self.ne(e)
        x = self.inh(eh) + self.ine(ee) + place
        z = Sm @ e
        z = z / z.float().norm(dim=-1, keepdim=True).clamp(min=1e-3).to(z.dtype) * d ** 0.5
        z = z + self.skip(Sm @ eh) + self.latents[:q].to(z.dtype)
        dist = (own[:, None, :] - torch.arange(q)[None, :, None]).abs().float()   # (n, q, l)
        slopes = torch.tensor([4.0, 4.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.0, 0.0][: self.heads])
        bias = -slopes[None, :, None, None] * dist[:, None]
        bias = bias.masked_fill((t >= L)[:, None, None, :], -1e9)
        own_bias = torch.full((1, 1, q, q), 0.0) - slopes[None, :, None, None] * (torch.arange(q)[:, None] - torch.arange(q)[None]).abs().float()
        bias = torch.cat([bias, own_bias.expand(n, -1, -1, -1)], -1)
        for b in self.blocks: z = b(z, x, bias)
        return z * (self.scale / d ** 0.5)

class Encoder(nn.Module):
    def __init__(self, lm, rank=16, **kw):
        super().__init__()
        self.lm = lm                                             # a copy cut to its lower layers
        if rank: add_lora(lm, LoraSettings(rank=rank, alpha=2 * rank, dropout=0.0))
        self.alike = kw.pop("start", "stretch") == "alike"
        if self.alike:   # the library's Q-Former: every query starts from its own latent and sees the item alike (ablation)
            from comem.memory.qformer import QFormer, QFormerConfig
            self.former = QFormer(QFormerConfig(576, num_queries=kw["queries"], depth=kw["depth"], heads=9, ff_mult=2, shared=False, output_scale=3.2 / 24))
            self.former.start_near_identity()
        else:
            kw.pop("queries", None); self.former = Former(**kw)

    def trained(self):
        t = {f"former.{k}": v for k, v in self.former.named_parameters()}
        t |= {f"lora.{k}": p for k, p in self.lm.named_parameters() if p.requires_grad}
        return t

    def forward(self, texts, q):
        """texts: lists of token ids. Returns (n, q, d) in float32."""
        l = max(map(len, texts)); n = len(texts)
        I = torch.full((n, l + 1), 2); I[:, 0] = 1
        for r, x in enumerate(texts): I[r, 1:len(x) + 1] = torch.tensor(x)
        L = l + 1
        mask = torch.zeros(n, 1, L, L, dtype=torch.bfloat16).masked_fill(~torch.ones(L, L, dtype=torch.bool).tril(), -1e9)
        with adapters_on(self.lm):
            h = self.lm.model(input_ids=I, attention_mask=mask, use_cache=False, position_ids=torch.arange(L)[None].expand(n, -1)).last_hidden_state
        e = self.lm.model.embed_tokens(I[:, 1:])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if self.alike: return self.former(h[:, 1:].float(), torch.arange(l)[None] < torch.tensor([len(x) for x in texts])[:, None]).float()
            return self.former(e.float(), h[:, 1:].float(), [len(x) for x in texts], q).float()
