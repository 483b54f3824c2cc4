"Trainings that several processes share: `torchrun --nproc_per_node 2 tests/processes.py FOLDER` runs them all"
import json, os, signal, sys
from pathlib import Path
from cnnfast import *
from cnnfast.core.processes import everyones, is_first, rank

class Double(Callback):
    "Rounding grows in training: in double precision, what is the same stays the same"
    order = -2
    def before_batch(self): self.learn.xb = tuple(o.double() for o in self.xb)

class FirstDraw(Callback):
    "Keeps the first random number in training, and the pictures of the first batch"
    def before_batch(self):
        if hasattr(self, 'drawn'): return
        with torch.random.fork_rng(devices=[]): self.drawn,self.seen = torch.rand(1).item(),self.x.double().mean().item()

class _Interrupted(Callback):
    order = 2000
    def before_epoch(self):
        if self.epoch == 2: raise KeyboardInterrupt

def sample(): return cifar10_sample().subset(per_class=20)

def with_norms():
    "torch's batch norm, and timm's, which has an activation in it"
    torch.manual_seed(0)
    from timm.layers import BatchNormAct2d
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), BatchNormAct2d(16),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

PLAIN = { # model, loaders, learner
    'plain':('cnn', {}, dict(dropout=0., hidden=32)),
    'norms':(with_norms, {}, {}),
    'uneven':(with_norms, dict(bs=35), {}),
    'on disk':(with_norms, dict(in_memory=False, num_workers=0), {}),
    'balanced':(with_norms, {}, {}),
    'stopped':(with_norms, {}, dict(patience=1, lr=1.)),
    'averaged':(with_norms, {}, dict(cbs=[WeightAverage(0.9)])),
    'busy':(with_norms, {}, dict(keep_busy=True))}

def trained(name, epochs=5):
    model,loaders,kwargs = PLAIN[name]
    data = sample()
    if name == 'balanced': data = data.balance('weighted')
    dls = data.dataloaders(**{'bs':50, 'augment':False, **loaders})
    model = model if isinstance(model, str) else model()
    learn = scratch_learner(dls, model, seed=0, **{**kwargs, 'cbs':[*kwargs.get('cbs', []), Double()]})
    learn.model.double()
    learn.recorder.train_metrics = True
    learn.metrics = [accuracy, F1Score(average='macro')]
    with learn.distrib_ctx(), learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs)
    return learn

def with_chance(**kwargs):
    dls = sample().dataloaders(bs=50, mix='mixup')
    learn = scratch_learner(dls, 'cnn', seed=0, hidden=32, **kwargs)
    return learn

def fit(learn, **kwargs):
    with learn.distrib_ctx(), learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(4, **kwargs)
    return learn

def weights(learn): return {k:v.clone() for k,v in learn.model.state_dict().items()}
def apart(a, b): return max((a[k].double()-b[k].double()).abs().max().item() for k in a)

def all_of_them(folder):
    facts = {}
    for name in PLAIN:
        learn = trained(name)
        learn.dls.train.rng.seed(0)
        facts[name] = dict(history=learn.history().to_dict('list'), bs=learn.dls.train.bs, idxs=len(learn.dls.train.get_idxs()))
        if is_first(): torch.save(weights(learn), folder/f'{name}.pth')
    draw = FirstDraw()
    whole = weights(fit(with_chance(cbs=[draw])))
    facts['chance'] = everyones((draw.drawn, draw.seen))
    facts['agree'] = [apart(whole, o) for o in everyones(whole)]
    try: fit(with_chance(cbs=[Checkpoint(folder/'half.safetensors'), _Interrupted()]))
    except KeyboardInterrupt: pass
    facts['resumed'] = everyones(apart(whole, weights(fit(with_chance(cbs=[Checkpoint(folder/'half.safetensors', resume=True)])))))
    try: fit(with_chance(cbs=[Checkpoint(folder/'other.safetensors'), _Interrupted()]))
    except KeyboardInterrupt: pass
    try: fit(with_chance(lr=1e18))
    except FloatingPointError as e: facts['diverged'] = everyones(str(e))
    if is_first(): (folder/'facts.json').write_text(json.dumps(facts))

def one_dies(argv):
    "The `cnnfast` command, whose second process is killed in its second epoch"
    from cnnfast.cli.main import command
    class _Killed(Callback):
        def before_batch(self):
            if self.training and self.epoch == 1 and rank() == 1: os.kill(os.getpid(), signal.SIGKILL)
    from cnnfast.study import pipeline, run
    pipeline.Checkpoint = lambda path, **kwargs: Checkpoint(path, **{**kwargs, 'seconds':0}) # after every epoch, however short
    before = run.fit_with_bar
    run.fit_with_bar = lambda learn, epochs, desc, fit, cbs=(): before(learn, epochs, desc, fit, [*cbs, _Killed()])
    sys.argv = ['cnnfast', *argv]
    command()

if __name__ == '__main__':
    torch.set_num_threads(1)
    if sys.argv[1] == 'run': one_dies(sys.argv[1:])
    else: all_of_them(Path(sys.argv[1]))
