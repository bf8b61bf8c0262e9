import json, torch
from pathlib import Path
from .degrade import upsample, task_from
from .train import build_model, predict, read_safetensors
class Interpolate:
    model='interpolation'
    def __init__(s,mode): s.up=s.name=mode
    def __call__(s,lr,task): return upsample(lr,task.hr,s.up)
class NetRestorer:
    def __init__(s,net,up,config,name='net'): s.net,s.up,s.config,s.name,s.model=net.eval().to(memory_format=torch.channels_last),up,config,name,config['model']['name']
    @torch.inference_mode()
    def __call__(s,lr,task):
        with torch.autocast(lr.device.type,torch.bfloat16): return predict(s.net,upsample(lr,task.hr,s.up),s.config['mean'],s.config['std']).clamp(0,1)
def load_run(d,up=None):
    c=json.loads((Path(d)/'config.json').read_text()); n=build_model(c['model']); n.load_state_dict(read_safetensors(Path(d)/'weights.safetensors')[0]); return NetRestorer(n,up or c['up'],c,Path(d).name)
