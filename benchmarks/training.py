"""What training costs: `fast_cnn` and its recipe beside the airbench project's, the overhead of the `Learner`, peak memory.

    python benchmarks/training.py --cifar cifar10.tgz --peer cifar10-airbench

`--peer` is a checkout of https://github.com/KellerJordan/cifar10-airbench; its network and loop run as they are but for device, dtype
and data. All 50,000 training pictures train, all 10,000 test pictures test. Training time is that of the training epochs alone, for both;
reading the data and testing do not count. Each training runs in a process of its own. On two cores all of it takes about five hours:
`--parts` and `--seeds` take less, and with `--results` a second start goes on where the first was stopped.
"""
import argparse, contextlib, importlib.util, io, os, platform, re, resource, statistics, subprocess, sys, tempfile, time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('--cifar', help='CIFAR-10 on disk: a folder or an archive; by default downloaded')
parser.add_argument('--peer', help='a checkout of the airbench project; by default it is left out')
parser.add_argument('--parts', nargs='+', default=['peer', 'accurate', 'quick', 'overhead', 'memory', 'ablation', 'choice'],
                    help='what to measure; by default %(default)s')
parser.add_argument('--seeds', type=int, default=2, help='trainings of each kind')
parser.add_argument('--device', help='by default the best there is')
parser.add_argument('--results', help='a file that keeps finished trainings; those in it are not run again')
parser.add_argument('--rounds', type=int, default=5, help='rounds of the overhead\'s measurement')
parser.add_argument('--part', help=argparse.SUPPRESS)
parser.add_argument('--seed', type=int, help=argparse.SUPPRESS)
args = parser.parse_args()

def table(results):
    "Print mean, range and ratios of {part: [(plain, multi-crop, seconds, MB)]}"
    base = results.get('peer')
    for part,rows in results.items():
        plain,multi,secs,mb = zip(*rows)
        ratio = (f'; {statistics.mean(secs)/statistics.mean(r[2] for r in base):.2f} of the peer\'s time, '
                 f'{statistics.mean(multi)-statistics.mean(r[1] for r in base):+.2%} of its accuracy') if base and part != 'peer' else ''
        print(f'{part:9} multi-crop {statistics.mean(multi):.2%} ({min(multi):.2%} to {max(multi):.2%}), '
              f'one view {statistics.mean(plain):.2%}, training {statistics.mean(secs):,.0f} s ({min(secs):,.0f} to {max(secs):,.0f}), '
              f'peak memory {max(mb):,.0f} MB{ratio}', flush=True)

if not args.part:
    kept = [o.split() for o in open(args.results)] if args.results and os.path.exists(args.results) else []
    results,done = {},set()
    for part,seed,*row in kept: results.setdefault(part, []).append(tuple(map(float, row))); done.add((part, int(seed)))
    for seed in range(args.seeds): # in turn, since the speed of a shared machine drifts
        for part in [o for o in args.parts if o in ('peer', 'accurate', 'quick') and (o != 'peer' or args.peer)]:
            if (part, seed) in done: continue
            with subprocess.Popen([sys.executable, *sys.argv, '--part', part, '--seed', str(seed)],
                                  stdout=subprocess.PIPE, text=True) as process:
                for line in process.stdout: print(line, end='', flush=True)
            if process.returncode: sys.exit(process.returncode)
            row = line.split()[1:]
            results.setdefault(part, []).append(tuple(map(float, row)))
            if args.results:
                with open(args.results, 'a') as f: print(part, seed, *row, file=f)
    if results: table(results)
    for part in [o for o in args.parts if o in ('overhead', 'memory', 'ablation', 'choice')]:
        subprocess.run([sys.executable, *sys.argv, '--part', part], check=True)
    sys.exit()

import warnings
from copy import deepcopy
warnings.filterwarnings('ignore')
from cnnfast import *

device = torch.device(args.device) if args.device else default_device()

def all_of_cifar():
    "CIFAR-10 with all 50,000 training pictures in train and the 10,000 for test in valid, where they choose nothing"
    data = cifar10(args.cifar)
    train,test = np.concatenate([data.splits['train'], data.splits['valid']]),data.splits['test']
    return data.new(splits=dict(train=train, valid=test))

class TrainTime(Callback):
    "Seconds spent in training epochs, validation left out"
    order,seconds = 1000,0.
    def before_train(self): self.start = self.now()
    def after_train(self): self.seconds += self.now()-self.start
    def now(self):
        if device.type == 'cuda': torch.cuda.synchronize()
        return time.perf_counter()

def peak_mb():
    return torch.cuda.max_memory_allocated()/2**20 if device.type == 'cuda' else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**10
def report(plain, multi, seconds): print(f'{args.part} {plain} {multi} {seconds} {peak_mb()}', flush=True)

def ours(epochs, bs, widths, *resizing):
    "One training through the `Learner`; `resizing`: arguments of `ProgressiveResizing`"
    timer = TrainTime()
    learn = scratch_learner(all_of_cifar().dataloaders(bs=bs, augment=[PadCrop(2), AlternatingFlip()], device=device), 'fast_cnn',
                            widths=widths, seed=args.seed, cbs=[timer, ProgressiveResizing(*resizing)])
    learn.validate = noop
    with learn.no_bar(): learn.fit_linear(epochs)
    report(*[evaluate(learn, multi_crop=o).metrics['accuracy'] for o in (False, True)], timer.seconds)

def load_peer(root):
    "The peer's module; where there is no GPU, with what it asks of one replaced: device, half precision, compilation and clocks"
    if device.type != 'cuda':
        class Clock:
            def __init__(self, *args, **kwargs): pass
            def record(self): self.time = time.perf_counter()
            def elapsed_time(self, end): return 1e3*(end.time-self.time)
        torch.compile = lambda f=None, **kwargs: f
        torch.cuda.Event,torch.cuda.synchronize = Clock,noop
        Tensor.half = Tensor.bfloat16 = Tensor.float
        nn.Module.half = nn.Module.float
        nn.Module.cuda = lambda self: self.to(device)
        load = torch.load
        torch.load = lambda path, map_location=None: load(path, map_location=device)
    sys.argv[0] = str(root/'airbench94_muon.py') # it reads its own source
    spec = importlib.util.spec_from_file_location('airbench94_muon', sys.argv[0])
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    return peer

def peer():
    "One training of the peer's network by the peer's loop"
    data = all_of_cifar()
    pics,root = data.decoded()[0],Path(args.peer).resolve()
    with tempfile.TemporaryDirectory() as tmp, contextlib.chdir(tmp):
        Path('cifar10').mkdir()
        for name,k in dict(train='train', test='valid').items():
            rows = data.splits[k]
            torch.save(dict(images=torch.from_numpy(pics[rows].transpose(0, 2, 3, 1).copy()), labels=torch.as_tensor(data.targs[rows]),
                            classes=list(data.vocab)), f'cifar10/{name}.pt')
        module = load_peer(root)
        torch.manual_seed(args.seed)
        model = module.CifarNet().cuda().to(memory_format=torch.channels_last)
        if device.type == 'cuda':
            model.compile(mode='max-autotune')
            with contextlib.redirect_stdout(io.StringIO()): module.main('warmup', model)
        log = io.StringIO()
        with contextlib.redirect_stdout(log): module.main(args.seed, model)
    print(log.getvalue(), end='')
    rows = [[o.strip() for o in line.strip('|').split('|')] for line in log.getvalue().splitlines() if line.startswith('|')]
    last = [o for o in rows if o[1] not in ('epoch', 'eval')][-1]
    report(float(last[3]), float(rows[-1][4]), float(last[5]))

def overhead():
    "An epoch of 5,000 pictures through the `Learner` and through a bare PyTorch loop, in turn"
    data = all_of_cifar().subset(per_class=500)
    dls = data.dataloaders(bs=500, device=device)
    learn = scratch_learner(dls, 'fast_cnn', progressive=False, cbs=(timer := TrainTime()))
    def through_learner():
        timer.seconds = 0.
        with learn.no_bar(), learn.no_logging(): learn.fit_linear(1)
        return timer.seconds
    model,loss_func = deepcopy(learn.model).to(device).to(memory_format=torch.channels_last),learn.loss_func
    amp = torch.amp.GradScaler(enabled=device.type == 'cuda')
    def bare():
        opt = Muon(L(p for p in model.parameters() if p.requires_grad), lr=learn.lr)
        model.train()
        keep = KeepMemory(); keep.learn = learn; keep.before_fit()
        start = timer.now()
        for xb,yb in dls.train:
            with torch.autocast('cuda', dtype=torch.float16, enabled=device.type == 'cuda'): loss = loss_func(model(xb), yb)
            amp.scale(loss).backward() if device.type == 'cuda' else loss.backward()
            opt.step(); opt.zero_grad()
        res = timer.now()-start
        keep.after_fit()
        return res
    through_learner(); bare()
    times = [(through_learner(), bare()) for _ in range(args.rounds)]
    ratios = sorted(a/b for a,b in times)
    print(f'overhead: an epoch of 5,000 pictures {statistics.median(a for a,_ in times):.2f} s through the Learner, '
          f'{statistics.median(b for _,b in times):.2f} s in a bare loop; '
          f'ratio, median of {len(ratios)}: {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})', flush=True)

def memory():
    "Peak memory of a training on CIFAR-10 held in memory, at full size, for 20 batches and a validation"
    dls = all_of_cifar().dataloaders(bs=500, device=device)
    learn = scratch_learner(dls, 'fast_cnn', seed=0, cbs=ShortEpochCallback(0.2, short_valid=True))
    with learn.no_bar(), learn.no_logging(): learn.fit_linear(1)
    print(f'memory: peak {peak_mb():,.0f} MB in batches of 500', flush=True)

def small(data, seed, cbs=(), augment=None, opt_func=None, lr=None, schedule='fit_linear', epochs=4, bs=500,
          whiten=True, compiled=False, **kwargs):
    "Accuracy with one view and with six, and seconds, of a small `fast_cnn` on pictures of 16 pixels"
    dls = data.dataloaders(bs=bs, augment=augment or [PadCrop(1), AlternatingFlip()], device=device)
    learn = scratch_learner(dls, 'fast_cnn', widths=(32, 128, 128), seed=seed, opt_func=opt_func, lr=lr,
                            cbs=[*cbs, timer := TrainTime()], **kwargs)
    if not whiten: learn.model[0].requires_grad_(True).reset_parameters()
    if compiled: learn.model.compile()
    with learn.no_bar(), learn.no_logging(): getattr(learn, schedule)(epochs)
    return *[evaluate(learn, multi_crop=o).metrics['accuracy'] for o in (False, True)],timer.seconds

def ablation():
    "What each part of the recipe is worth: everything as it is, then one thing changed, on CIFAR-10 at 16 pixels with half the widths"
    data = all_of_cifar().new(size=16)
    plain = CrossEntropyLossFlat()
    settings = {'as it is':{},
        'random flips':dict(augment=[PadCrop(1), FlipLR()]), 'no shifts':dict(augment=[AlternatingFlip()]),
        'shifts of 2':dict(augment=[PadCrop(2), AlternatingFlip()]),
        'first layer learned':dict(whiten=False), 'batch norm momentum 0.1':dict(bn_momentum=0.1),
        'relu':dict(activation='relu'), 'no label smoothing':dict(loss_func=plain),
        'one-cycle':dict(schedule='fit_one_cycle'),
        'Adam, 0.003':dict(opt_func='adam', lr=0.003), 'Adam, 0.01':dict(opt_func='adam', lr=0.01),
        'SGD, 0.05':dict(opt_func='sgd', lr=0.05), 'SGD, 0.2':dict(opt_func='sgd', lr=0.2),
        'Muon, half the rate':dict(lr=0.06), 'Muon, twice the rate':dict(lr=0.24),
        'batches of 250':dict(bs=250), 'batches of 1000':dict(bs=1000),
        'compiled (torch.compile)':dict(compiled=True), 'averaged weights':dict(cbs=[WeightAverage(0.95)]),
        '5 epochs, the first at 10 pixels':dict(epochs=5, cbs=[ProgressiveResizing(0.625, multiple=2)])}
    for name,kwargs in settings.items():
        plain,multi,secs = zip(*[small(data, seed, **kwargs) for seed in range(args.seeds)])
        print(f'{name:34} one view {statistics.mean(plain):.2%} ({min(plain):.2%} to {max(plain):.2%}), '
              f'multi-crop {statistics.mean(multi):.2%}, {statistics.mean(secs):.0f} s', flush=True)

def choice():
    "Accuracy on valid: `fast_cnn` as it is, with other rates of Adam's, two of the record's later ideas, and as it was until 2026-11-27"
    ways = {'as it is':{}, "Adam at 0.01 of Muon's rate":dict(scale=0.01), '0.05':dict(scale=0.05), '0.1':dict(scale=0.1),
            'SiLU':dict(activation='silu'), 'brightness and contrast':dict(jitter=[LightJitter()]),
            "as it was (0.1, no bias after whitening, a head with torch's weights)":dict(scale=0.1, before=True)}
    def score(data, epochs, seed, scale=None, before=False, jitter=(), **kwargs):
        dls = data.dataloaders(device=device, augment=[*data.augmentations(), *jitter])
        learn = scratch_learner(dls, 'fast_cnn', seed=seed, **kwargs)
        if before: learn.model[0].bias.requires_grad_(False); learn.model[-1].reset_parameters()
        if scale: learn.opt_func = partial(Muon, adam_scale=scale)
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs)
        return learn.history().accuracy.iloc[-1]
    trainings = [(digits(), 3), (digits(), 8), (cifar10_sample(), 6)]
    if args.cifar: trainings.append((cifar10(args.cifar).subset(per_class=400, splits='train'), 5))
    for data,epochs in trainings:
        for what,kwargs in ways.items():
            accs = [score(data, epochs, seed, **kwargs) for seed in range(args.seeds)]
            print(f'{data.name}, {epochs} epochs, {len(data.splits["valid"]):,} valid: {what:70} {statistics.mean(accs):.2%} '
                  f'({min(accs):.2%} to {max(accs):.2%})', flush=True)

print(f'{args.part}{"" if args.seed is None else f", seed {args.seed}"}: {platform.machine()}, {os.cpu_count()} cores, '
      f'torch {torch.__version__}, Python {platform.python_version()}, {device}', flush=True)
{'peer':peer, 'accurate':lambda: ours(10, 500, (64, 256, 256), 0.625, 0.8), 'quick':lambda: ours(7, 250, (48, 192, 192), 0.625, 1.),
 'overhead':overhead, 'memory':memory, 'ablation':ablation, 'choice':choice}[args.part]()
