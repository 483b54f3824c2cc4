"""What a GPU makes of cnnfast: what runs there, where a training step waits for it, and what an epoch takes beside a bare loop and the
speed record's own code.

    python benchmarks/gpu.py --cifar cifar10.tgz --record cifar10-airbench --tiny-imagenet part-a.tgz part-b.tgz --out results --minutes 20

`--record` is a checkout of https://github.com/KellerJordan/cifar10-airbench, run as it is but for its data. Each section runs in a process
of its own and may take so long and no longer; what it has found until then stands in `results.jsonl`, one measurement a line, and is
printed as a table at the end. `--tiny` tries the script itself with few pictures, without a GPU too.
"""
import argparse, json, os, signal, subprocess, sys, tempfile, time
from collections import Counter
from pathlib import Path

# seconds that each section may take, those that say most first
LIMITS = dict(data=90, tests=150, waits=60, ours=120, record=300, wide=200, record96=260, photos=80, tiny=150,
              parts=80, variants=150, runs=110, speed=110, graphs=110, compiled=150)
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('--cifar', help='CIFAR-10 on disk: a folder or an archive; by default downloaded')
parser.add_argument('--record', help='a checkout of the airbench project; by default it is left out')
parser.add_argument('--tiny-imagenet', nargs='+', help='Tiny ImageNet on disk: a folder, or the archives that are its parts')
parser.add_argument('--record-mode', default='max-autotune',
                    help="how the record is compiled: its own way takes minutes, 'reduce-overhead' does not")
parser.add_argument('--runs96', type=int, default=4, help='trainings of the record for 96%%, and of ours beside it')
parser.add_argument('--runs', type=int, default=10, help='trainings of the record, and of ours beside it')
parser.add_argument('--sections', nargs='+', default=[*LIMITS], choices=LIMITS, help='what to do, in order; by default everything')
parser.add_argument('--minutes', type=float, default=9., help='what all of it may take')
parser.add_argument('--device', help='by default the best there is')
parser.add_argument('--out', default='gpu-results', help='a folder for what was measured')
parser.add_argument('--tiny', action='store_true', help='few pictures and steps')
parser.add_argument('--section', help=argparse.SUPPRESS)
parser.add_argument('--until', type=float, help=argparse.SUPPRESS)
args = parser.parse_args()
out = Path(args.out).resolve()

def table(rows):
    "What was measured, a line each"
    for o in rows:
        found = {k:f'{v:.4g}' if isinstance(v, float) else v for k,v in o.items() if k not in ('section', 'what', 'lines')}
        print(f"{o['section']:9} {o['what']:46} {', '.join(f'{k} {v}' for k,v in found.items())}")
        for line in o.get('lines', []): print(f"{'':12}{line}")

def drive():
    "All sections, one process each; the data are prepared beside the first of them"
    out.mkdir(parents=True, exist_ok=True)
    until,started = time.time() + 60*args.minutes,{}
    def start(name):
        limit = min(until, time.time()+LIMITS[name]*(20 if args.tiny else 1))
        cmd = [sys.executable, *sys.argv, '--section', name, '--until', str(limit)]
        root = Path(__file__).resolve().parent.parent
        env = {**os.environ, 'PYTHONUNBUFFERED':'1', 'PYTHONPATH':os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')])}
        with open(out/f'{name}.log', 'w') as f:
            started[name] = subprocess.Popen(cmd, stdout=f, stderr=subprocess.STDOUT, env=env, start_new_session=True),limit
    def finish(name):
        process,limit = started.pop(name)
        try: code = process.wait(max(1, limit+10-time.time())) # a section looks at the clock itself; this is for one that hangs
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = 'stopped by the clock'
        print(f'{name}: {"done" if code == 0 else code}, {until-time.time():.0f} s left', flush=True)
        if code: print(*(out/f'{name}.log').read_text().splitlines()[-6:], sep='\n', flush=True)
    for name in args.sections:
        if time.time() > until-15: print(f'no time for {name}'); continue
        if name not in ('tests', 'runs') and 'data' in started: finish('data')
        start(name)
        if name == 'data' and len(args.sections) > 1: continue
        finish(name)
    if 'data' in started: finish('data')
    if (out/'results.jsonl').exists(): table(map(json.loads, (out/'results.jsonl').read_text().splitlines()))

if not args.section:
    with tempfile.TemporaryDirectory() as tmp: # decoded pictures, for all sections
        os.environ.setdefault('CNNFAST_HOME', tmp)
        drive()
    sys.exit()

import contextlib, functools, importlib.util, io, shutil, statistics, traceback, warnings
warnings.filterwarnings('ignore')
import matplotlib
matplotlib.use('Agg')
from types import SimpleNamespace
from unittest import mock
from cnnfast import *
from cnnfast.core.devices import begin_step
from cnnfast.data.store import PictureStore

device = torch.device(args.device) if args.device else default_device()
on_gpu = device.type == 'cuda'
tmp = Path(os.environ['CNNFAST_HOME'])

def row(what, **found):
    "Keep a measurement"
    found = {k:v.item() if hasattr(v, 'item') else v for k,v in found.items()}
    line = dict(section=args.section, what=what, **found)
    with open(out/'results.jsonl', 'a') as f: print(json.dumps(line), file=f)
    table([line])

class NoTimeLeft(Exception): pass
def attempt(what, f, need=0):
    "Keep what `f` returns, or the last lines of its error; nothing that goes wrong ends the section"
    if args.until-time.time() < need: raise NoTimeLeft
    start = time.perf_counter()
    try:
        found = f() or {}
        row(what, **found, **({'s':time.perf_counter()-start} if args.section == 'runs' else {}))
    except NoTimeLeft: raise
    except Exception as e:
        lines = [o for o in traceback.format_exc().splitlines() if o.strip()]
        row(what, FAILED=f'{type(e).__name__}: {str(e)[:300]}', lines=lines[-7:])

def now():
    if on_gpu: torch.cuda.synchronize()
    return time.perf_counter()

@functools.cache
def all_of_cifar():
    "CIFAR-10 with all 50,000 training pictures in train and the 10,000 for test in valid, where they choose nothing"
    data = cifar10(args.cifar)
    train,test = np.concatenate([data.splits['train'], data.splits['valid']]),data.splits['test']
    if args.tiny: train,test = train[::100],test[::100]
    return data.new(splits=dict(train=train, valid=test))

@functools.cache
def loaders(bs):
    "Batches of `bs`, a share of it where this is only tried"
    some = 32 if args.tiny else 1
    return all_of_cifar().dataloaders(bs=bs//some, val_bs=2000//some, device=device)

def quietly(learn, f, *a, **kwargs):
    with learn.no_bar(), learn.no_logging(): return f(*a, **kwargs)

# What runs

def data():
    attempt('CIFAR-10 decoded', lambda: {'pictures':len(all_of_cifar().decoded()[0]), 'cores':os.cpu_count()})

def runs():
    "Everything that the library offers, once, on the pictures that come with it"
    row('machine', device=torch.cuda.get_device_name() if on_gpu else str(device), torch=torch.__version__, python=sys.version.split()[0])
    small = cifar10_sample().subset(per_class=40) if args.tiny else cifar10_sample()
    dls = small.dataloaders(bs=64, device=device)
    acc = lambda learn: {'accuracy':float(evaluate(learn).metrics['accuracy'])}
    made = {}
    def train(name, epochs=1 if args.tiny else 3, make=scratch_learner, f='fit_one_cycle', fit_args={}, **kwargs):
        def g():
            made[name] = learn = make(kwargs.pop('dls', dls), *([kwargs.pop('model')] if 'model' in kwargs else []), seed=0, **kwargs)
            quietly(learn, getattr(learn, f), epochs, **fit_args)
            return acc(learn)
        return g
    def bar():
        learn = scratch_learner(dls, 'cnn', seed=0)
        with contextlib.redirect_stdout(io.StringIO()) as said: learn.fit_one_cycle(2)
        return {'printed':len(said.getvalue())}
    def same_seed():
        a,b = [scratch_learner(dls, 'fast_cnn', seed=1) for _ in range(2)]
        for o in (a, b): quietly(o, o.fit_linear, 1)
        same = all(torch.equal(x, y) for x,y in zip(a.model.state_dict().values(), b.model.state_dict().values()))
        return {'the same weights twice':same}
    def saved():
        folder = save_model(made['fast_cnn'], tmp/'saved')
        c = load_model(folder)
        pics = small.decoded()[0][small.splits['test'][:64]].transpose(0, 2, 3, 1)
        p = c.predict_proba(list(pics))
        dl = made['fast_cnn'].dls.test
        q = quietly(made['fast_cnn'], made['fast_cnn'].get_preds, ds_idx=2)[0][:64]
        return {'device':str(c.device), 'largest difference to get_preds':float((torch.as_tensor(p)-q).abs().max())}
    def fastai_files():
        learn = made['cnn']
        learn.path = tmp
        learn.save('weights'); learn.load('weights'); learn.export('export.pkl')
        return {'class':load_learner(tmp/'export.pkl', cpu=False).predict(small.decoded()[0][0].transpose(1, 2, 0))[0]}
    def checkpoint():
        path = tmp/'checkpoint.safetensors'
        class _Stop(Callback):
            order = 2000
            def after_epoch(self):
                if self.epoch == 0: raise KeyboardInterrupt
        for cbs in ([_Stop()], []):
            learn = scratch_learner(dls, 'fast_cnn', seed=0, cbs=[Checkpoint(path, resume=True), *cbs])
            try: quietly(learn, learn.fit_linear, 2)
            except KeyboardInterrupt: pass
        whole = scratch_learner(dls, 'fast_cnn', seed=0)
        quietly(whole, whole.fit_linear, 2)
        pairs = zip(learn.model.state_dict().values(), whole.model.state_dict().values())
        return {'largest difference to an unbroken run':max((a.float()-b.float()).abs().max().item() for a,b in pairs)}
    def diverges():
        learn = scratch_learner(dls, 'cnn', seed=0, opt_func='sgd', lr=1e10)
        try: quietly(learn, learn.fit, 2)
        except FloatingPointError as e: return {'says':str(e)[:160], 'finite':all(o.isfinite().all().item() for o in learn.parameters())}
    def autoencoder(target):
        def f():
            learn = autoencoder_learner(made['fast_cnn'], target=target, seed=0)
            quietly(learn, learn.fine_tune, 1)
            return {'psnr':float(reconstruction_scores(learn, 'valid').psnr.mean()) if target == 'picture' else 0.}
        return f
    def photographs():
        from sklearn.datasets import load_sample_image
        rng = np.random.default_rng(0)
        for name,file in dict(flower='flower.jpg', temple='china.jpg').items():
            (tmp/'photos'/name).mkdir(parents=True)
            photo = Image.fromarray(load_sample_image(file))
            for i in range(40):
                x,y = rng.integers(0, 300),rng.integers(0, 150)
                photo.crop((x, y, x+300, y+200)).save(tmp/'photos'/name/f'{i}.jpg')
        data = image_folder(tmp/'photos', size=64 if args.tiny else 128)
        tuned = transfer_learner(data.dataloaders(bs=16, augment='strong', device=device), seed=0)
        quietly(tuned, tuned.fine_tune, 1)
        p = probe(data, seed=0)
        quietly(p, p.fine_tune_probe, 2)
        return {'tuned':float(evaluate(tuned).metrics['accuracy']), 'probe':float(evaluate(p).metrics['accuracy'])}
    def comparison():
        with contextlib.redirect_stdout(io.StringIO()):
            c = compare(small, ['cnn', 'tiny_resnet'], epochs=1, seeds=1, device=device, verbose=False)
            c.report(tmp/'report.html')
        return {'report, kB':(tmp/'report.html').stat().st_size//1000, 'memory, MB':float(c.results.peak_memory_mb.max())}
    def look(f):
        def g():
            f()
            plt.close('all')
        return g
    shown = lambda: look_at(made['fast_cnn'], 4)
    lines = {'a batch':lambda: {'on':str(dls.one_batch()[0].device), 'dtype':str(dls.one_batch()[0].dtype)},
        'fast_cnn':train('fast_cnn', model='fast_cnn', f='fit_linear'), 'cnn':train('cnn', model='cnn'),
        'cnn, with the progress bar':bar, 'fast_cnn, float32':train('fp32', model='fast_cnn', f='fit_linear', amp=False),
        'transfer_learner, tiny_resnet':train('tiny_resnet', 1, transfer_learner, 'fine_tune', arch='tiny_resnet'),
        'transfer_learner, lite0':train('lite0', 1, transfer_learner, 'fine_tune', arch='tf_efficientnet_lite0'),
        'evaluate, six views':lambda: {'accuracy':float(evaluate(made['fast_cnn'], multi_crop=True).metrics['accuracy'])},
        'the same seed twice':same_seed, 'save_model, load_model, predict_proba':saved, 'Checkpoint, resumed':checkpoint,
        'ensemble':lambda: {'accuracy':float(ensemble([made['fast_cnn'], made['cnn']]).evaluate().metrics['accuracy'])},
        'activation maps':look(lambda: plot_maps(made['fast_cnn'], shown())),
        'occlusion':look(lambda: occlusion_maps(made['fast_cnn'], shown())),
        'activations':look(lambda: plot_activations(made['fast_cnn'], shown())),
        'embeddings':look(lambda: plot_embeddings(made['fast_cnn'])),
        'filters':look(lambda: (plot_filters(made['fast_cnn']), plot_patterns(made['fast_cnn'], channels=2))),
        'autoencoder':autoencoder('picture'), 'autoencoder, masked':autoencoder('masked'),
        'wide_cnn':train('wide_cnn', 1, model='wide_cnn', f='fit_linear'), 'ann':train('ann', 1, model='ann'),
        'custom_cnn':train('custom_cnn', 1, model='custom_cnn'), 'a diverging loss':diverges,
        'augment strong (cutmix)':train('strong', 1, model='cnn', dls=small.dataloaders(bs=64, augment='strong', device=device)),
        'mixup':train('mixup', 1, model='cnn', dls=small.dataloaders(bs=64, mix='mixup', device=device)),
        'normalised picture by picture':train('each', 1, model='cnn', dls=small.dataloaders(bs=64, normalize='picture', device=device)),
        'lazy loader':train('lazy', 1, model='cnn', dls=small.dataloaders(bs=64, in_memory=False, num_workers=2, device=device)),
        'averaged weights, early stopping':train('average', 2, model='cnn', cbs=[WeightAverage()], patience=2),
        'lr_find':lambda: {'valley':float(quietly(made['cnn'], made['cnn'].lr_find, num_it=20, show_plot=False).valley)},
        "fastai's save, load, export":fastai_files, 'ONNX':lambda: {'kB':export_onnx(made['fast_cnn'], tmp/'m.onnx').stat().st_size//1000},
        'photographs: transfer, probe':photographs, 'compare, report':comparison}
    for what,f in lines.items(): attempt(what, f, need=5)

# Where a step waits

class Sources:
    "Counts what makes the CPU wait for the GPU, by the line of cnnfast or fastai that asked for it"
    def __init__(self): self.counts,self.on = Counter(),False
    def _note(self, message, category, filename, lineno, file=None, line=None):
        if 'synchroniz' not in str(message): return
        frames = [o for o in traceback.extract_stack()[:-1] if 'warnings.py' not in o.filename]
        ours = [o for o in frames if any(p in o.filename for p in ('cnnfast/', 'fastai/'))] or frames
        o,deepest = ours[-1],frames[-1]
        name = '/'.join(Path(o.filename).parts[-2:])
        within = f'  [{Path(deepest.filename).name}:{deepest.lineno}]' if deepest is not o else ''
        self.counts[f'{name}:{o.lineno} {o.line[:70]}{within}'] += 1
    @contextlib.contextmanager
    def counting(self):
        with warnings.catch_warnings():
            warnings.simplefilter('always')
            warnings.showwarning = self._note
            yield self

class Watch(Callback):
    "Calls `begin` and `end` around some steps, loading included"
    order = 10_000
    def __init__(self, begin, end, first=2, steps=4): self.begin,self.end,self.first,self.steps = begin,end,first,steps
    def after_batch(self):
        if not self.training: return
        if self.iter == self.first: now(); self.begin()
        if self.iter == self.first+self.steps: self.end()

def counted(bs=512, bar=False, **kwargs):
    "Waits in each step of `fast_cnn`, and where"
    learn = scratch_learner(loaders(bs), 'fast_cnn', seed=0, **kwargs)
    sources,steps = Sources(),4
    mode = torch.cuda.set_sync_debug_mode if on_gpu else noop
    watch = Watch(lambda: mode('warn'), lambda: mode('default'), steps=steps)
    short = ShortEpochCallback(8/len(learn.dls.train))
    with sources.counting(), contextlib.redirect_stdout(io.StringIO()), learn.added_cbs([watch, short]):
        if bar: learn.fit(1)
        else: quietly(learn, learn.fit, 1)
    mode('default')
    return {'waits a step':sum(sources.counts.values())/steps, 'lines':[f'{n/steps:g} {k}' for k,n in sources.counts.most_common(14)]}

def profiler():
    from torch.profiler import ProfilerActivity, profile
    return profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])])

def contents(prof, steps=1):
    "What the GPU did in each of `steps`, and what took most time there and on the CPU"
    avg = prof.key_averages()
    gpu,cpu = lambda o: getattr(o, 'self_device_time_total', 0)/1e3/steps,lambda o: o.self_cpu_time_total/1e3/steps
    kernels = [o for o in avg if o.device_type != torch.autograd.DeviceType.CPU]
    count = lambda *names: sum(o.count for o in avg if o.key in names)/steps
    top = sorted(kernels, key=gpu, reverse=True)[:16] + sorted(avg, key=cpu, reverse=True)[:14]
    return {'GPU busy, ms':sum(map(gpu, kernels)), 'launches':count('cudaLaunchKernel', 'cuLaunchKernel', 'cudaLaunchKernelExC'),
            'copies':count('cudaMemcpyAsync'), 'stream waits':count('cudaStreamSynchronize'),
            'lines':[f'{gpu(o):7.2f} ms GPU, {cpu(o):7.2f} CPU, {o.count/steps:6.1f} times  {o.key[:100]}' for o in top]}

def profiled(bs=512, **kwargs):
    "What four steps are made of"
    learn = scratch_learner(loaders(bs), 'fast_cnn', seed=0, **kwargs)
    kept = {}
    prof,steps = profiler(),4
    def begin(): prof.__enter__(); kept['start'] = time.perf_counter()
    def end():
        now(); kept['s'] = time.perf_counter()-kept['start']
        prof.__exit__(None, None, None)
    with learn.added_cbs([Watch(begin, end, steps=steps), ShortEpochCallback(8/len(learn.dls.train))]): quietly(learn, learn.fit, 1)
    return {'ms a step (profiled)':kept['s']/steps*1e3, **contents(prof, steps)}

def waits():
    attempt('fast_cnn, as it is', counted)
    attempt('fast_cnn, keep_busy', lambda: counted(keep_busy=True, progressive=False))
    attempt('fast_cnn, keep_busy, growing, with the bar', lambda: counted(bar=True, keep_busy=True))
    attempt('fast_cnn, as it is, with the bar', lambda: counted(bar=True))
    attempt('fast_cnn, float32, nothing grows', lambda: counted(amp=False, progressive=False))
    attempt('cnn, Adam', lambda: counted(opt_func='adam'), need=8)
    attempt('a step, profiled', lambda: profiled(progressive=False), need=8)
    attempt('a step, keep_busy, profiled', lambda: profiled(progressive=False, keep_busy=True), need=8)
    attempt('a step, float32, profiled', lambda: profiled(progressive=False, amp=False), need=8)

# How long

class EpochTimes(Callback):
    "Seconds of each training epoch with all that callbacks do before and after it, validation left out"
    order,start = -1000,None
    def __init__(self): self.seconds = []
    def before_train(self): self.start = now()
    def before_validate(self):
        if self.start: self.seconds.append(now()-self.start)
        self.start = None

def precision(kind):
    "Arguments of a learner"
    return dict(amp=False) if kind == 'fp32' else dict(amp=False, cbs=[MixedPrecision(kind)]) if on_gpu else dict(amp=False)

def learner(bs, kind='bf16', cbs=(), **kwargs):
    how = precision(kind)
    if kwargs.get('keep_busy'): how = dict(amp=False) if kind == 'fp32' else {} # bfloat16 where the device has it
    return scratch_learner(loaders(bs), 'fast_cnn', seed=0, progressive=False, **{**how, **kwargs, 'cbs':[*how.pop('cbs', ()), *cbs]})

def through_learner(bs, kind='bf16', bar=False, epochs=3, **kwargs):
    "Epochs through the `Learner`, the first left out"
    times = EpochTimes()
    learn = learner(bs, kind, [times], **kwargs)
    start = now()
    with contextlib.redirect_stdout(io.StringIO()):
        if bar: learn.fit_linear(epochs)
        else: quietly(learn, learn.fit_linear, epochs)
    each = times.seconds[1:]
    return {'s an epoch':statistics.median(each), 'ms a step':1e3*statistics.median(each)/len(learn.dls.train),
            's in all, an epoch':(now()-start)/epochs, 'pictures/s':len(learn.dls.train)*learn.dls.train.bs/statistics.median(each),
            'accuracy':float(learn.history().accuracy.iloc[-1])}

def autocast(kind): return torch.autocast(device.type, getattr(torch, dict(fp16='float16').get(kind, 'bfloat16')), enabled=kind != 'fp32')

def bare(bs, kind='bf16', epochs=3, load=True, step=True):
    "The same network, loader and optimiser in a plain loop; `load`: or the same batch again and again, `step`: or no step"
    learn = learner(bs, kind)
    model,loss_func = learn.model.to(device, memory_format=torch.channels_last).train(),learn.loss_func
    learn.create_opt()
    learn.opt.set_hyper('lr', learn.lr)
    dl,batch,times = learn.dls.train,learn.dls.train.one_batch(),[]
    for _ in range(epochs):
        start = now()
        for xb,yb in dl if load else [batch]*len(dl):
            with autocast(kind): loss = loss_func(model(xb), yb)
            loss.backward()
            if step: learn.opt.step()
            learn.opt.zero_grad()
        times.append(now()-start)
    return {'s an epoch':statistics.median(times[1:]), 'ms a step':1e3*statistics.median(times[1:])/len(dl)}

def loader(bs):
    dl,times = learner(bs).dls.train,[]
    for _ in range(4):
        start = now()
        for b in dl: pass
        times.append(now()-start)
    return {'s an epoch':statistics.median(times[1:]), 'ms a batch':1e3*statistics.median(times[1:])/len(dl)}

def optimiser(opt_func):
    "A step of the optimiser alone"
    learn = learner(512)
    model = learn.model.to(device, memory_format=torch.channels_last)
    opt = opt_func([p for p in model.parameters() if p.requires_grad])
    for p in model.parameters():
        if p.requires_grad: p.grad = torch.randn_like(p)
    n,times = 3 if args.tiny else 20,[]
    for _ in range(4):
        start = now()
        for _ in range(n): opt.step()
        times.append((now()-start)/n*1e3)
    return {'ms':statistics.median(times[1:])}

def whole_epochs(dtype=torch.float16):
    "All pictures drawn, shifted and mirrored at once: by what a batch goes through, and by one look-up in half precision"
    dl = loaders(1024).train
    (pics,_),rows,n = dl.store.tensors(device),dl.rows.to(device),len(dl.rows)
    h,w = pics.shape[2:]
    def order(): return rows[torch.randperm(n, device=device)]
    def as_batches():
        for t in dl.after_batch.fs:
            if hasattr(t, 'idxs'): t.idxs = torch.arange(n, device=device)
        x = dl.after_batch((TensorImage(pics.index_select(0, order())), torch.zeros(n, device=device)))[0].as_subclass(Tensor)
        return x.to(dtype, memory_format=torch.channels_last)
    plain = (pics.permute(0, 2, 3, 1).to(dtype)/255).contiguous()
    padded = F.pad(plain.permute(0, 3, 1, 2).float(), (4,)*4, mode='reflect').to(dtype).permute(0, 2, 3, 1).contiguous()
    windows = padded.unfold(1, h, 1).unfold(2, w, 1).permute(0, 1, 2, 4, 5, 3) # a view: picture, top, left, height, width, channels
    def shifts(): return torch.randint(0, 9, (2, n), device=device)
    def looked_up():
        dy,dx = shifts()[:,:,None] - 4
        at = [(torch.arange(s, device=device) + d).abs() for s,d in ((h, dy), (w, dx))]
        y,x = [torch.where(o < s, o, 2*(s-1)-o) for o,s in zip(at, (h, w))]
        x = torch.where((torch.rand(n, device=device) < 0.5)[:,None], x.flip(1), x)
        return plain[order()[:,None,None], y[:,:,None], x[:,None,:]].permute(0, 3, 1, 2)
    def padded_windows():
        x = windows[order(), shifts()[0], shifts()[1]]
        return torch.where((torch.rand(n, device=device) < 0.5)[:,None,None,None], x.flip(2), x).permute(0, 3, 1, 2)
    found = {}
    for f in (as_batches, looked_up, padded_windows):
        times = []
        for _ in range(4): start = now(); x = f(); times.append(1e3*(now()-start)); shape = (tuple(x.shape), x.stride(1)); del x
        found[f'ms {f.__name__}'] = statistics.median(times[1:])
        assert shape == ((n, 3, h, w), 1)
    return found

def speed():
    for bs,kind,bar in ((512, 'fp16', False), (512, 'fp16', True), (512, 'bf16', False), (1024, 'bf16', False), (512, 'fp32', False)):
        attempt(f'Learner, {kind}, batches of {bs}{", with the bar" if bar else ""}', lambda: through_learner(bs, kind, bar), need=12)
    for bs in (64, 512, 1024, 2000):
        attempt(f'Learner, keep_busy, batches of {bs}', lambda: through_learner(bs, keep_busy=True), need=12)
    for bs in (512, 1024): attempt(f'bare loop, bf16, batches of {bs}', lambda: bare(bs), need=8)
    attempt('bare loop, one batch again and again, 1024', lambda: bare(1024, load=False), need=8)
    attempt('the same without steps', lambda: bare(1024, load=False, step=False), need=8)
    attempt('the same without steps, fp16', lambda: bare(1024, 'fp16', load=False, step=False), need=8)
    for bs in (512, 1024): attempt(f'loader alone, {bs}', lambda: loader(bs), need=4)
    attempt('an epoch augmented at once', whole_epochs, need=4)
    opts = {'Muon':Muon, 'FusedAdam':FusedAdam, "torch's AdamW, fused":partial(torch.optim.AdamW, fused=True),
            "torch's SGD, fused":partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True, fused=True)}
    for name,f in opts.items(): attempt(f'optimiser alone: {name}', lambda: optimiser(f), need=4)
    attempt('Learner, bf16, batches of 2000', lambda: through_learner(2000), need=12)
    attempt('bare loop, fp32, 1024, one batch, no steps', lambda: bare(1024, 'fp32', load=False, step=False), need=8)

# Compiled

def compiled(bs=1024):
    "Forward, loss and backward of one batch: eager and compiled, in several precisions"
    def steps(kind, mode, half=False, norm=False):
        def f():
            torch.compiler.reset()
            if on_gpu: torch.backends.cudnn.benchmark = True
            learn = learner(bs)
            model,loss_func = learn.model.to(device, memory_format=torch.channels_last).train(),learn.loss_func
            (xb,yb) = [o.as_subclass(Tensor) for o in learn.dls.train.one_batch()]
            xb = xb.contiguous(memory_format=torch.channels_last)
            if half:
                for o in model.modules():
                    if not isinstance(o, nn.BatchNorm2d): o.to(getattr(torch, half))
                xb = xb.to(getattr(torch, half))
            def loss_of(x, y):
                with contextlib.nullcontext() if half else autocast(kind):
                    return F.cross_entropy(model(x), y, label_smoothing=0.2)
            g,start,times = loss_of if mode is None else torch.compile(loss_of, **mode),now(),[]
            for _ in range(3): g(xb, yb).backward(); model.zero_grad(set_to_none=False)
            warm,n = now()-start,2 if args.tiny else 30
            for _ in range(4):
                start = now()
                for _ in range(n): g(xb, yb).backward(); model.zero_grad(set_to_none=False)
                times.append((now()-start)/n*1e3)
            return {'ms':statistics.median(times), 's to warm up':warm}
        return f
    attempt(f'eager, bf16, {bs}', steps('bf16', None))
    attempt(f'compiled, bf16, {bs}', steps('bf16', {}), need=20)
    attempt(f'compiled, CUDA graphs, bf16, {bs}', steps('bf16', dict(mode='reduce-overhead')), need=20)
    attempt(f'eager, all float16 but the norms, {bs}', steps('fp16', None, half='float16'), need=5)
    attempt(f'compiled, all float16 but the norms, {bs}', steps('fp16', {}, half='float16'), need=20)
    attempt(f'compiled, CUDA graphs, float16, {bs}', steps('fp16', dict(mode='reduce-overhead'), half='float16'), need=20)
    attempt(f'compiled, all bfloat16 but the norms, {bs}', steps('bf16', {}, half='bfloat16'), need=20)
    attempt(f'compiled, max-autotune, float16, {bs}', steps('fp16', dict(mode='max-autotune'), half='float16'), need=60)

# The record

def load_record(path):
    "The module; where there is no GPU, with what it asks of one replaced: device, half precision, compilation and clocks"
    if not on_gpu:
        class Clock:
            def __init__(self, *a, **kwargs): pass
            def record(self): self.time = time.perf_counter()
            def elapsed_time(self, end): return 1e3*(end.time-self.time)
        load = torch.load
        torch.compile = lambda f=None, **kwargs: f
        torch.cuda.Event,torch.cuda.synchronize = Clock,noop
        Tensor.half = Tensor.bfloat16 = Tensor.float
        nn.Module.half = nn.Module.float
        nn.Module.cuda = Tensor.cuda = lambda self: self.to(device)
        torch.load = lambda path, map_location=None: load(path, map_location=device)
    sys.argv[0] = str(path) # it reads its own source
    spec = importlib.util.spec_from_file_location('record', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def source_of(name, *smaller):
    "A file of the record; with few pictures, other batches: its own would be all there is"
    source = (Path(args.record)/name).resolve()
    if not args.tiny: return source
    text = source.read_text()
    for a,b in smaller: text = text.replace(a, b)
    (tmp/name).write_text(text)
    return tmp/name

def its_data():
    "A folder with the pictures as the record's code reads them"
    data = all_of_cifar()
    pics,folder = data.decoded()[0],tmp/'record'
    (folder/'cifar10').mkdir(parents=True, exist_ok=True)
    for name,k in dict(train='train', test='valid').items():
        rows = data.splits[k]
        torch.save(dict(images=torch.from_numpy(pics[rows].transpose(0, 2, 3, 1).copy()), labels=torch.as_tensor(data.targs[rows]),
                        classes=list(data.vocab)), folder/'cifar10'/f'{name}.pt')
    return folder

def record():
    "The record's own network, loop and data format: seconds of training, accuracy with six views"
    if not args.record: return
    source = source_of('airbench94_muon.py', ('batch_size = 2000', 'batch_size = 250'))
    with contextlib.chdir(its_data()):
        module = load_record(source)
        model = module.CifarNet().to(device, memory_format=torch.channels_last) if not on_gpu else \
                module.CifarNet().cuda().to(memory_format=torch.channels_last)
        if on_gpu: model.compile(mode=args.record_mode)
        start,log = now(),io.StringIO()
        with contextlib.redirect_stdout(log): module.main('warmup', model)
        warm,found = now()-start,[]
        for i in range(1 if args.tiny else args.runs):
            if args.until-time.time() < 8: break
            with contextlib.redirect_stdout(log): six = module.main(i, model)
            lines = [[o.strip() for o in line.strip('|').split('|')] for line in log.getvalue().splitlines() if line[:1] == '|']
            last = [o for o in lines if o[1] not in ('epoch', 'eval')][-1]
            found.append((float(last[5]), six, float(last[3])))
    if not found: return row('airbench94_muon', FAILED='no time left after warming up', warm=warm)
    secs,six,one = zip(*found)
    row('airbench94_muon', **{'s of training':statistics.median(secs), 'fastest':min(secs), 'six views':statistics.mean(six),
                              'spread':statistics.stdev(six) if len(six) > 1 else 0., 'one view':statistics.mean(one),
                              'trainings':len(found), 'warm-up':warm})

def record96():
    "The record for 96%: seconds of training, its proxy included, accuracy with six views"
    if not args.record: return
    source = source_of('airbench96_faster.py', ("'batch_size': 1024", "'batch_size': 128"),
                       ("'batch_size_masked': 512", "'batch_size_masked': 64"),
                       ("'train_epochs': 45.0", "'train_epochs': 4.0"), ('_orig_mod', 'layers'))
    with contextlib.chdir(its_data()):
        module,made = load_record(source),[]
        for kind,frozen in (('proxy', True), ('net', False), ('net', True)):
            net = module.make_net(module.hyp[kind])
            if frozen: net[0].bias.requires_grad = False
            if not on_gpu: vars(net)['layers'] = net # as a compiled one names what it is made of
            made.append(torch.compile(net, mode=args.record_mode))
        start,log,found,warm = now(),io.StringIO(),[],0
        for i in range(1 + (1 if args.tiny else args.runs96)):
            if args.until-time.time() < 25: break
            hyp = deepcopy(module.hyp)
            if i == 0: hyp['opt'].update(train_epochs=5., whiten_bias_epochs=1) # compiles
            with contextlib.redirect_stdout(log): six = module.main(i, hyp, *made)
            lines = [[o.strip() for o in line.strip('|').split('|')] for line in log.getvalue().splitlines() if line[:1] == '|']
            if i: found.append((float(lines[-2][6]), six, float(lines[-2][4]))) # before its last look
            else: warm = now()-start
    if not found: return row('airbench96_faster', FAILED='no time left after warming up', warm=warm)
    row('airbench96_faster', **summary(found), **{'warm-up':warm})

# Beside the record and beside a bare loop

def tests():
    "The tests that need a GPU"
    root = Path(__file__).resolve().parent.parent
    names = re.findall(r'@needs_gpu.*?def (\w+)', (root/'tests'/'test_gpu.py').read_text(), re.DOTALL)
    cmd = [sys.executable, '-m', 'pytest', '-v', '-n', '4', '-p', 'no:cacheprovider', '-W', 'ignore', 'tests/test_gpu.py',
           '-k', ' or '.join(names)]
    with open(out/'pytest.txt', 'w') as f:
        try: code = subprocess.run(cmd, cwd=root, stdout=f, stderr=f, timeout=max(10, args.until-time.time()-5)).returncode
        except subprocess.TimeoutExpired: code = 'stopped by the clock'
    lines = (out/'pytest.txt').read_text().splitlines()
    row('tests/test_gpu.py', ok=code == 0, passed=sum(' PASSED ' in o for o in lines), code=code,
        lines=[o for o in lines if o[:2] == 'E ' or o[:6] == 'FAILED' or ' passed' in o][-40:])

@functools.cache
def as_the_record(bs=2000, pad=2):
    "Loaders of the record's batches and augmentation"
    some = 32 if args.tiny else 1
    return all_of_cifar().dataloaders(bs=bs//some, val_bs=2000//some, augment=[PadCrop(pad), AlternatingFlip()], device=device)

class Training:
    "One learner for many trainings, so that what was compiled is used again"
    def __init__(self, dls=None, model='fast_cnn', **kwargs):
        self.model,self.kwargs,self.times = model,{'progressive':False, 'keep_busy':True, **kwargs},EpochTimes()
        self.dls = dls or as_the_record()
        self.learn = self.fresh(0, cbs=[self.times, *self.kwargs.pop('cbs', ())])
    def fresh(self, seed, **kwargs):
        return scratch_learner(self.dls, self.model, seed=seed, **{**self.kwargs, **kwargs})
    def __call__(self, seed, epochs=8):
        "Seconds of the training epochs, accuracy with six views and with one"
        learn = self.learn
        learn.model.load_state_dict(self.fresh(seed).model.state_dict())
        learn.seed_everything.seed,learn.seed_everything.n_fits = seed,0
        self.times.seconds.clear()
        quietly(learn, learn.fit_linear, 2 if args.tiny else epochs, reset_opt=True)
        return sum(self.times.seconds),*[float(evaluate(learn, multi_crop=o).metrics['accuracy']) for o in (True, False)]

def summary(found):
    secs,six,one = zip(*found)
    spread = statistics.stdev(six) if len(six) > 1 else 0.
    return {'s of training':statistics.median(secs), 'fastest':min(secs), 'six views':statistics.mean(six), 'spread':spread,
            'one view':statistics.mean(one), 'trainings':len(found)}

def loop_alone(learn, epochs):
    "Seconds of each epoch of a bare loop over what `learn` trains with"
    model,dl,opt,loss_func,times = learn.model.train(),learn.dls.train,learn.opt,learn.loss_func,[]
    learn.keep_busy.before_fit()
    opt.set_hypers(lr=0.01)
    for _ in range(epochs):
        start = now()
        for xb,yb in dl:
            begin_step()
            with autocast('bf16' if on_gpu else 'fp32'): loss = loss_func(model(xb.as_subclass(Tensor)), yb.as_subclass(Tensor))
            loss.backward()
            opt.step()
            opt.zero_grad()
        times.append(now()-start)
    learn.keep_busy.after_fit()
    return times

def beside_a_loop(training, compiled, rounds=3, epochs=4):
    "An epoch through the `Learner` beside one of the bare loop, in turn"
    learn,mine,bare = training.learn,[],[]
    n = 2 if args.tiny else epochs
    for _ in range(1 if args.tiny else rounds):
        training.times.seconds.clear()
        quietly(learn, learn.fit_linear, n)
        mine.append(statistics.median(training.times.seconds[1:]))
        if compiled: learn.model._compiled_call_impl = learn.compile_model._compiled[1]
        bare.append(statistics.median(loop_alone(learn, n)[1:]))
        if compiled: learn.model._compiled_call_impl = None
    ratios = sorted(a/b for a,b in zip(mine, bare))
    return {'ms an epoch':1e3*statistics.median(mine), 'bare':1e3*statistics.median(bare), 'ratio':statistics.median(ratios),
            'from':ratios[0], 'to':ratios[-1]}

def trained(training, runs, epochs=8):
    "So many trainings, as long as there is time; the first, which compiles, apart"
    start = now()
    training(99, epochs)
    first,found = now()-start,[]
    for seed in range(1 if args.tiny else runs):
        if args.until-time.time() < 4: break
        found.append(training(seed, epochs))
    return {**summary(found), 'a first training, s':first}

def ours():
    "The record's task through the `Learner`: 8 epochs, batches of 2,000; and what the `Learner` adds to a loop"
    ways = {'CUDA graphs':dict(cbs=[CompileModel('reduce-overhead')]), 'eager':{}}
    for what,kwargs in ways.items():
        training = Training(**kwargs)
        attempt(f'fast_cnn, {what}, 8 epochs', lambda: trained(training, args.runs if what == 'CUDA graphs' else 3), need=10)
        attempt(f'Learner beside a bare loop, {what}', lambda: beside_a_loop(training, bool(kwargs)), need=8)
        if what == 'CUDA graphs': attempt('an epoch, profiled', lambda: profiled_epoch(training), need=8)

class Profile(Callback):
    "Profiles training epoch number `which`"
    order = -999
    def __init__(self, which): self.which,self.found = which,{}
    def before_train(self):
        if self.epoch != self.which: return
        self.prof = profiler()
        now(); self.prof.__enter__(); self.start = time.perf_counter()
    def before_validate(self):
        if self.epoch != self.which or self.found: return
        took = 1e3*(now()-self.start)
        self.prof.__exit__(None, None, None)
        self.found = {'ms':took, **contents(self.prof)}

def profiled_epoch(training, which=1):
    p = Profile(which)
    with training.learn.added_cbs(p): training(3, which+2)
    return p.found

def AsRecord(params, lr, decay=0.004, **kwargs):
    "The record's optimisers: Muon for filters, SGD with Nesterov momentum for the rest, its rates brought from a sum of losses to a mean"
    from cnnfast.training.optimizers import TogetherOptimizer, muon_together
    def together(ps, states, lr, **kwargs):
        some = [(p, s) for p,s in zip(ps, states) if p.ndim == 4]
        muon_together(*zip(*some), lr=lr, filter_mom=0.6, rescale=True, ns_steps=3)
        for p,s in zip(ps, states):
            if p.ndim == 4: continue
            highest = 106. if p.ndim == 1 else 1340/256**2
            g = p.grad + p*(decay/highest)
            s['buf'] = g if 'buf' not in s else 0.85*s['buf'] + g
            p.sub_(lr/0.24*highest*(g + 0.85*s['buf']))
    return TogetherOptimizer(params, noop, together, lr=lr)

def wide():
    "The task of the record for 96%: `wide_cnn`, batches of 1,024, shifts of 4 pixels, alternating flips, a blanked square of 12"
    some = 32 if args.tiny else 1
    dls = all_of_cifar().dataloaders(bs=1024//some, val_bs=2000//some, augment=[PadCrop(4), AlternatingFlip(), Cutout(12)], device=device)
    for epochs,growing in ((24, False), (36, True)):
        training = Training(dls, 'wide_cnn', progressive=growing, cbs=[CompileModel('reduce-overhead')])
        attempt(f'wide_cnn, {epochs} epochs{", growing" if growing else ""}', lambda: trained(training, args.runs96, epochs), need=60)

class Undo(Callback):
    "Takes back some of what `KeepBusy` has set"
    order = KeepBusy.order+1
    def __init__(self, whole=True, half=True, united=True): self.whole,self.half,self.united = whole,half,united
    def before_fit(self):
        dl = self.dls.train
        dl.whole = dl.whole and self.whole
        if not self.half: dl.dtype = None
        self.opt.united = self.opt.united and self.united

def parts(bs=1024):
    "What each part is worth: milliseconds a step without it"
    def without(change=noop, bar=False, undo=(), **kwargs):
        def f():
            times,dls = EpochTimes(),loaders(bs)
            cbs = [times, *([Undo(**dict(undo))] if undo else [])]
            learn = scratch_learner(dls, 'fast_cnn', seed=0, progressive=False, **{'keep_busy':True, **kwargs, 'cbs':cbs})
            change(learn)
            with contextlib.redirect_stdout(io.StringIO()):
                if bar: learn.fit_linear(3)
                else: quietly(learn, learn.fit_linear, 3)
            return {'ms a step':1e3*statistics.median(times.seconds[1:])/len(dls.train)}
        return f
    def plain_recorder(learn): learn.remove_cb(Recorder); learn.add_cb(Recorder())
    def look_at_once(learn): learn.remove_cb(StopAtNaN); learn.add_cb(StopAtNaN())
    def precision_of(kind): return lambda learn: (learn.remove_cb(MixedPrecision), learn.add_cb(MixedPrecision(kind)) if kind else None)
    changes = {'everything':{}, 'with the bar':dict(bar=True), 'batches one by one':dict(undo=dict(whole=False)),
        'pictures in single precision':dict(undo=dict(half=False)), 'a step for each parameter':dict(undo=dict(united=False)),
        "fastai's Recorder":dict(change=plain_recorder), 'a look at every loss':dict(change=look_at_once),
        'reproducible':dict(reproducible=True), 'float16 with a scaler':dict(change=precision_of('fp16')),
        'float32':dict(change=precision_of(None)), 'none of it':dict(keep_busy=False)}
    for what,kwargs in changes.items(): attempt(what, without(**kwargs), need=5)

def variants():
    "Other recipes for the record's task, by turns with other seeds, not compiled"
    def adam(scale, **kwargs): return dict(opt_func=partial(Muon, adam_scale=scale, **kwargs), lr=0.24)
    settings = {'as it is':{}, 'SGD as the record':dict(opt_func=AsRecord, lr=0.24),
        'the same without decay':dict(opt_func=partial(AsRecord, decay=0.), lr=0.24), 'Adam at 0.01 of the rate':adam(0.01),
        'Adam at 0.04 of it':adam(0.04), 'decay of 1 for the head':adam(0.02, wd=1.), 'decay of 5':adam(0.02, wd=5.),
        'decay of 1 for head and biases':dict(**adam(0.02, wd=1.), wd_bn_bias=True), 'Adam at 0.1 of it':adam(0.1),
        'rate 0.3':dict(lr=0.3), 'rate 0.18':dict(lr=0.18),
        'float32':dict(amp=False), 'float16 with a scaler':dict(amp=False, cbs=[MixedPrecision('fp16')]),
        'not kept busy':dict(keep_busy=False),
        'batches of 1000':dict(dls=as_the_record(1000)), 'shifts of 4':dict(dls=as_the_record(pad=4)), '9 epochs':dict(epochs=9),
        '10 epochs, growing':dict(epochs=10, progressive=True)}
    found,made = {},{}
    try:
        for seed in range(1 if args.tiny else 4):
            for what,kwargs in settings.items():
                if args.until-time.time() < 8: raise NoTimeLeft
                kwargs = dict(kwargs)
                epochs = kwargs.pop('epochs', 8)
                if what not in made: made[what] = Training(**kwargs)
                try: found.setdefault(what, []).append(made[what](seed, epochs))
                except Exception as e: row(what, FAILED=f'{type(e).__name__}: {str(e)[:200]}')
    except NoTimeLeft: pass
    for what,o in found.items(): row(what, **summary(o))

def graphs():
    "CUDA graphs, where batches are small"
    for bs in (256, 512):
        dls = loaders(bs)
        for what,cbs in {'eager':[], 'compiled':[CompileModel()], 'CUDA graphs':[CompileModel('reduce-overhead')]}.items():
            def f():
                times = EpochTimes()
                learn = scratch_learner(dls, 'fast_cnn', seed=0, progressive=False, keep_busy=True, cbs=[times, *cbs])
                start = now()
                quietly(learn, learn.fit_linear, 3)
                return {'ms a step':1e3*statistics.median(times.seconds[1:])/len(dls.train), 's in all':now()-start}
            attempt(f'{what}, batches of {bs}', f, need=25 if cbs else 5)

# Photographs, and Tiny ImageNet

def made_photographs(n):
    "A folder of JPEG photographs of 340x256 pixels: pieces of two, in other lights"
    from concurrent.futures import ThreadPoolExecutor
    from sklearn.datasets import load_sample_image
    photos = {o:Image.fromarray(load_sample_image(f)) for o,f in dict(flower='flower.jpg', temple='china.jpg').items()}
    def make(i):
        rng,name = np.random.default_rng(i),('flower', 'temple')[i % 2]
        w = int(rng.integers(340, 560)); h = w*256//340
        x,y = rng.integers(0, 640-w+1),rng.integers(0, 427-h+1)
        o = photos[name].resize((340, 256), Image.BICUBIC, box=(x, y, x+w, y+h)).point(lambda v, k=rng.uniform(0.6, 1.4): min(255, v*k))
        o.save(tmp/'photographs'/name/f'{i}.jpg', quality=90)
    for o in photos: (tmp/'photographs'/o).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as ex: list(ex.map(make, range(n)))
    return tmp/'photographs'

def photos(bs=128, arch='resnet50'):
    "Training at 224 pixels: pictures in a second from the memory of the GPU, from that of the machine, from disk, and by fastai"
    size,n = (64, 200) if args.tiny else (224, 4000)
    if args.tiny: bs = 16
    root = made_photographs(n)
    data = image_folder(root, size=size)
    def speed(dls):
        times = EpochTimes()
        learn = scratch_learner(dls, 'resnet18' if args.tiny else arch, seed=0, cbs=[times], amp=on_gpu, reproducible=False)
        torch.backends.cudnn.benchmark = True
        quietly(learn, learn.fit, 4)
        ps = sorted(len(dls.train)*dls.train.bs/o for o in times.seconds[1:])
        return {'pictures/s':ps[1], 'from':ps[0], 'to':ps[2], 'first epoch, s':times.seconds[0]}
    def off_the_gpu():
        with mock.patch.object(PictureStore, '_fits', lambda self, device: device.type == 'cpu'):
            return speed(data.dataloaders(bs=bs, device=device))
    def fastais():
        tfms = dict(item_tfms=RandomResizedCrop(size, min_scale=0.35), batch_tfms=[Normalize.from_stats(*imagenet_stats)])
        return speed(ImageDataLoaders.from_folder(root, valid_pct=0.1, seed=0, bs=bs, device=device, num_workers=os.cpu_count(), **tfms))
    def nvjpeg():
        from torchvision.io import decode_jpeg, read_file
        files = [read_file(str(o)) for o in data.items[:2000]]
        def all_of_them(): return [decode_jpeg(files[i:i+200], device=device) for i in range(0, len(files), 200)]
        all_of_them(); start = now(); all_of_them(); took = now()-start
        start = now(); data.decoded(cache=False); on_cores = now()-start
        by_pillow = torch.from_numpy(np.array(Image.open(data.items[0]).convert('RGB'))).int()
        apart = (decode_jpeg(files[0], device=device).cpu().permute(1, 2, 0).int() - by_pillow).abs()
        return {'pictures/s':len(files)/took, 'on all cores, resized and kept':n/on_cores, 'differ by, of 255':apart.float().mean(),
                'at most':apart.max()}
    if on_gpu: attempt('decoded by the GPU (nvJPEG)', nvjpeg)
    attempt('in the memory of the GPU', lambda: speed(data.dataloaders(bs=bs, device=device)))
    attempt('in the memory of the machine', off_the_gpu)
    attempt('on disk, a budget of 0.1 GB', lambda: speed(data.dataloaders(bs=bs, device=device, budget=1e-4 if args.tiny else 0.1)))
    def packed(**kwargs): # as where the disk has room for the files alone
        usage = SimpleNamespace(free=2*sum(o.stat().st_size for o in root.rglob('*.jpg')))
        with mock.patch.object(shutil, 'disk_usage', lambda o: usage), mock.patch.dict(os.environ, CNNFAST_HOME=str(tmp/'packed')):
            return speed(data.dataloaders(bs=bs, device=device, budget=1e-4 if args.tiny else 0.1, **kwargs))
    attempt('packed on disk, decoded by the cores', packed)
    attempt('packed on disk, decoded by the GPU', lambda: packed(decode_device=device))
    attempt("fastai's loader", fastais)

def tiny(epochs=12):
    "Tiny ImageNet at 64 pixels: accuracy on its val pictures and seconds of training; fastai's loader and timm's ResNet beside"
    if not args.tiny_imagenet: return
    data = tiny_imagenet(args.tiny_imagenet)
    if args.tiny: data,epochs = data.subset(5),1
    row('pictures', **{k:len(v) for k,v in data.splits.items()})
    def score(learn, f, **kwargs):
        times,start = EpochTimes(),now()
        with learn.added_cbs(times): quietly(learn, getattr(learn, f), epochs, **kwargs)
        found = {'valid':float(learn.history().accuracy.iloc[-1]), 's of training':sum(times.seconds), 's in all':now()-start}
        views = {'test, one view':False, **({'six views':True} if hasattr(learn.dls.train, 'store') else {})}
        return {**found, **{k:float(evaluate(learn, multi_crop=o).metrics['accuracy']) for k,o in views.items()}}
    def resnet(dls): return scratch_learner(dls, 'resnet18', seed=0, lr=3e-3)
    def by_fastai():
        files,test = [data.items[i] for i in (*data.splits['train'], *data.splits['valid'])],[data.items[i] for i in data.splits['test']]
        names = dict(zip(map(str, data.items), data.targs))
        n = len(data.splits['train'])
        block = DataBlock((ImageBlock, CategoryBlock), get_y=lambda o: names[str(o)],
                          splitter=lambda o: (list(range(n)), list(range(n, len(o)))),
                          batch_tfms=[*aug_transforms(size=64, min_scale=0.75), Normalize.from_stats(*imagenet_stats)])
        dls = block.dataloaders(files, bs=128, device=device, num_workers=os.cpu_count())
        dls.loaders.append(dls.test_dl(test, with_labels=True))
        return score(resnet(dls), 'fit_one_cycle')
    bs = 64 if args.tiny else 500
    dls = data.dataloaders(bs=bs, device=device)
    attempt('fast_cnn, keep_busy', lambda: score(scratch_learner(dls, 'fast_cnn', seed=0, keep_busy=True), 'fit_linear'))
    attempt("timm's resnet18, fastai's loader", by_fastai)
    attempt('wide_cnn, keep_busy', lambda: score(scratch_learner(dls, 'wide_cnn', seed=0, keep_busy=True), 'fit_linear'))
    attempt("timm's resnet18, this loader", lambda: score(resnet(data.dataloaders(bs=128, device=device)), 'fit_one_cycle'))

sections = (data, tests, runs, waits, speed, compiled, record, record96, ours, wide, photos, tiny, parts, variants, graphs)
try: {f.__name__:f for f in sections}[args.section]()
except NoTimeLeft: row('no time left', FAILED=f'the rest of {args.section} was left out')
