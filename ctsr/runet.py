import torch
from torch import nn
import torch.nn.functional as F
def W(c,w): return c if w==1 else max(8,round(c*w/8)*8)
class Block(nn.Module):
    def __init__(s,i,o):
        super().__init__(); s.b=nn.Sequential(nn.Conv2d(i,o,3,padding=1),nn.BatchNorm2d(o),nn.ReLU(),nn.Conv2d(o,o,3,padding=1),nn.BatchNorm2d(o)); s.k=nn.Conv2d(i,o,1) if i!=o else nn.Identity()
    def forward(s,x): return s.b(x)+s.k(x)
class RUNet(nn.Module):
    def __init__(s,in_channels=1,width=1.,shortcut='conv1x1',residual=False):
        super().__init__(); s.in_channels=in_channels; s.residual=residual; w=lambda c:W(c,width)
        s.e1=nn.Sequential(nn.Conv2d(in_channels,w(64),7,padding=3),nn.BatchNorm2d(w(64)),nn.ReLU())
        i=w(64); s.e=nn.ModuleList()
        for outs in ([64,64,64,128],[128,128,128,256],[256]*5+[512],[512,512]):
            L=[nn.MaxPool2d(2)]
            for o in outs: L.append(Block(i,w(o))); i=w(o)
            s.e.append(nn.Sequential(*L))
        s.bn=nn.Sequential(nn.BatchNorm2d(i),nn.ReLU()); s.bt=nn.Sequential(nn.Conv2d(i,w(1024),3,padding=1),nn.ReLU(),nn.Conv2d(w(1024),i,3,padding=1),nn.ReLU())
        skips=[w(512),w(512),w(256),w(128)]; s.d=nn.ModuleList()
        for k,o in zip(skips,(512,384,256,96)):
            c=i+k; s.d.append(nn.Sequential(nn.BatchNorm2d(c),nn.Conv2d(c,w(o),3,padding=1),nn.ReLU(),nn.Conv2d(w(o),w(o),3,padding=1),nn.ReLU(),nn.PixelShuffle(2))); i=w(o)//4
        c=i+w(64); s.l=nn.Sequential(nn.Conv2d(c,w(99) if width!=1 else 99,3,padding=1),nn.ReLU(),nn.Conv2d(w(99) if width!=1 else 99,w(99) if width!=1 else 99,3,padding=1),nn.ReLU(),nn.Conv2d(w(99) if width!=1 else 99,in_channels,1))
        if residual: nn.init.zeros_(s.l[-1].weight); nn.init.zeros_(s.l[-1].bias)
    def forward(s,x):
        e=[s.e1(x)]
        for m in s.e: e.append(m(e[-1]))
        e[-1]=s.bn(e[-1]); y=s.bt(e[-1])
        for m in s.d: y=m(torch.cat([y,e.pop()],1))
        y=s.l(torch.cat([y,e.pop()],1))
        return x+y if s.residual else y
