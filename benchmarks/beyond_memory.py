"""More pictures than the memory may hold: starts, training speed, peak memory, and a training that is killed and goes on.

    python benchmarks/beyond_memory.py --photos intel-scenes/train hymenoptera/train [--folder DIR] [--n 100000]

Makes `--n` JPEG pictures (about 19 KB each) from the photographs in class folders below `--photos`: pieces,
mirrored or not, in other colours, with grain, the shorter side 160 pixels. They and what is decoded lie in `--folder`, by default
a temporary one, which needs 10 GB for 100,000 pictures.
Each part runs in a process of its own, so that its start and its peak memory are its own.
`--parts` names some of them; `make` and `first` come first.
"""
import argparse, contextlib, io, json, multiprocessing, os, platform, resource, shutil, signal, statistics, subprocess, sys, tempfile, time
from pathlib import Path
from random import Random

STARTED = float(os.environ.get('STARTED', time.time()))
PARTS = ['make', 'first', 'epoch', 'second', 'speed', 'resume', 'order']
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('--photos', nargs='+', help='folders of class folders of photographs')
parser.add_argument('--folder', type=Path, help='where everything is written; by default a temporary folder')
parser.add_argument('--n', type=int, default=100_000, help='how many pictures')
parser.add_argument('--budget', type=float, default=2, help='GB of memory that decoded pictures may take')
parser.add_argument('--rounds', type=int, default=3, help='how often each loader trains for the comparison of speeds')
parser.add_argument('--batches', type=int, default=150,
                    help='batches of 64 that are timed; the training that is killed has a tenth in each epoch')
parser.add_argument('--parts', nargs='+', default=PARTS, choices=PARTS)
parser.add_argument('--part', help=argparse.SUPPRESS)
args = parser.parse_args()

# Pictures

def make_pictures(job):
    "Pieces of real photographs, mirrored or not, in other colours, with grain"
    from PIL import Image, ImageChops, ImageEnhance, ImageOps
    root,sources,rows = job
    for i in rows:
        rng = Random(i)
        label,files = sources[i % len(sources)]
        with Image.open(files[rng.randrange(len(files))]) as im: im = im.convert('RGB')
        w,h = [(160, 160), (176, 160), (192, 160), (160, 176), (160, 192)][rng.randrange(5)]
        side = rng.uniform(0.5, 1)*min(im.width/w, im.height/h)
        x,y = rng.uniform(0, im.width-side*w),rng.uniform(0, im.height-side*h)
        im = im.resize((w, h), Image.BICUBIC, box=(x, y, x+side*w, y+side*h))
        if rng.random() < 0.5: im = ImageOps.mirror(im)
        for how in (ImageEnhance.Brightness, ImageEnhance.Color, ImageEnhance.Contrast): im = how(im).enhance(rng.uniform(0.7, 1.3))
        im = ImageChops.add(im, Image.effect_noise(im.size, 6).convert('RGB'), 1, -128)
        im.save(root/label/f'{i:07}.jpg', quality=95, subsampling=0)

def make(root):
    "`args.n` pictures in class folders below `root`"
    if (root.parent/'made').exists(): return
    sources = sorted((d.name, sorted(map(str, d.glob('*.jpg')))) for o in args.photos for d in Path(o).iterdir() if d.is_dir())
    for label,_ in sources: (root/label).mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with multiprocessing.Pool() as pool:
        pool.map(make_pictures, [(root, sources, range(k, min(k+500, args.n))) for k in range(0, args.n, 500)], chunksize=1)
    n = sum(o.stat().st_size for o in root.rglob('*.jpg'))
    (root.parent/'made').touch()
    print(f'{args.n:,} pictures made in {time.perf_counter()-start:.0f} s: {n/2**30:.2f} GB, {n/args.n/1000:.1f} kB each')

# Each in a process of its own

def part(name, folder, wait=True, **more):
    "Run part `name`; the process"
    env = {**os.environ, 'CNNFAST_HOME':str(folder/'home'), 'PYTHONWARNINGS':'ignore', 'STARTED':str(time.time()), **more}
    p = subprocess.Popen([sys.executable, *sys.argv, '--folder', str(folder), '--part', name], env=env)
    if wait and p.wait(): sys.exit(p.returncode)
    return p

def whole(folder):
    "All parts that were asked for"
    if 'make' in args.parts: make(folder/'photos')
    for name in args.parts:
        if name == 'resume': resume(folder)
        elif name != 'make': part(name, folder)

def killed(folder, name, after):
    "Train as `name`, killed when so many lines of its log are there"
    p,log = part('train', folder, wait=False, RUN=name, CNNFAST_HOME=str(folder/'killed-home')),folder/f'{name}.log'
    while p.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < after): time.sleep(0.05)
    p.send_signal(signal.SIGKILL); p.wait()

def resume(folder):
    "A training that nothing disturbs, and one that is killed in its first epoch, while the store fills, and in its third"
    for o in ('whole', 'killed'):
        for f in (f'{o}.log', f'{o}.safetensors', f'{o}.json'): (folder/f).unlink(missing_ok=True)
    shutil.rmtree(folder/'killed-home', ignore_errors=True)
    each = max(1, args.batches//10)
    killed(folder, 'killed', each//2)
    killed(folder, 'killed', each//2 + 2*each + each//2)
    part('train', folder, RUN='killed', CNNFAST_HOME=str(folder/'killed-home'))
    part('train', folder, RUN='whole')
    a,b = [json.loads((folder/f'{o}.json').read_text()) for o in ('whole', 'killed')]
    print(f"killed twice and resumed: weights {'the same' if a['weights'] == b['weights'] else 'OTHERS'}, "
          f"history {'the same' if a['history'] == b['history'] else 'ANOTHER'}; {b['left_out']} pictures left out")

if not args.part:
    if args.folder: args.folder.mkdir(parents=True, exist_ok=True); whole(args.folder.resolve())
    else:
        with tempfile.TemporaryDirectory() as tmp: whole(Path(tmp))
    sys.exit()

from cnnfast import *
import warnings, zlib

def small_cnn(n_out):
    "Four convolutions, each of which halves the sides"
    def layer(i, o): return nn.Sequential(nn.Conv2d(i, o, 3, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True))
    convs = [layer(3, 16), layer(16, 32), layer(32, 64), layer(64, 64)]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, n_out))

def say(what): print(f'{args.part:8} {what}', flush=True)
def peak_gb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20
def since_start(): return time.time()-STARTED
def learner(dls, **kwargs):
    torch.manual_seed(0)
    return scratch_learner(dls, small_cnn(dls.c).to(memory_format=torch.channels_last), seed=0, **kwargs)
def photographs():
    with contextlib.redirect_stdout(io.StringIO()): return image_folder(args.folder/'photos', size=160)
def loaders(data, **kwargs):
    with contextlib.redirect_stdout(io.StringIO()): return data.dataloaders(bs=64, **kwargs)

class Speed(Callback):
    "When the first batch came, and pictures per second of training over `n` batches, from the second on; then it stops"
    order = 2000
    def __init__(self, n=math.inf): self.n,self.first,self.seen,self.took = n,None,0,0
    def before_batch(self):
        if not self.training: return
        if self.first is None: self.first = since_start()
        if self.seen == 0: self.start = time.perf_counter()
        self.seen += 1
    def after_batch(self):
        if self.training and self.seen > self.n: raise CancelFitException
    def after_train(self): self.took = time.perf_counter()-self.start
    def after_cancel_fit(self): self.took = time.perf_counter()-self.start
    @property
    def rate(self): return 64*self.seen/self.took

def trained(dls, n=math.inf):
    "`dls`, trained on for `n` batches or an epoch"
    learn,speed = learner(dls),Speed(n)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=speed)
    return speed

def begin(n=math.inf):
    "From the start of the process to the first batch, and on"
    imported = since_start()
    data = photographs()
    scanned = since_start()
    dls = loaders(data, budget=args.budget)
    made = since_start()
    speed,file = trained(dls, n),dls.train.store.file
    say(f'imports {imported:.1f} s, scan and splits {scanned-imported:.1f} s, loaders with statistics {made-scanned:.1f} s; '
        f'first batch {speed.first:.1f} s after the start')
    say(f'{speed.rate:,.0f} pictures/s over {speed.seen:,} batches; peak memory of the process {peak_gb():.2f} GB; '
        f'{os.stat(file.folder/"rows").st_blocks*512/2**30:.2f} of {len(data.items)*file.size/2**30:.2f} GB are on disk')
    return data,speed

def first():
    "The first start: nothing is decoded"
    data,speed = begin(args.batches)
    say(f'a million pictures, by arithmetic: files {data.stamps[:,0].mean()*1e6/2**30:.0f} GB, '
        f'decoded {math.prod(data.keeper.shape)*3e6/2**30:.0f} GB, '
        f'names {len(data.items.text)/len(data.items)*1e6/2**20:.0f} MB, '
        f'columns beside the pictures {(4+48+1+8+8+8+1+1+16+8+16)*1e6/2**20:.0f} MB, '
        f'scan {1e6/len(data.items):.0f} times as long, first epoch {700_000/speed.rate/60:.0f} minutes')

def compare_speeds():
    "The same model over a small set in memory, and over the whole one, in turn"
    data = photographs()
    small = data.subset(per_class=64*(args.batches+2)//len(data.vocab), splits=('train', 'valid', 'test'))
    dls = {'small, in memory':loaders(small), 'all, beyond memory':loaders(data, budget=args.budget)}
    rates = {k:[] for k in dls}
    for o in dls.values(): trained(o, 20)
    for _ in range(args.rounds):
        for k,o in dls.items(): rates[k].append(trained(o, args.batches).rate)
    for k,v in rates.items(): say(f'{k:20} {statistics.median(v):7,.0f} pictures/s ({min(v):,.0f} to {max(v):,.0f})')
    a,b = map(statistics.median, rates.values())
    say(f'beyond memory / in memory: {b/a:.3f}; peak memory {peak_gb():.2f} GB')

class Log(Callback):
    "A line for each batch"
    def __init__(self, path): self.path = path
    def after_batch(self):
        if self.training:
            with open(self.path, 'a') as f: f.write('.\n')

def train():
    "Three epochs of a part of the pictures, with a checkpoint"
    name = os.environ['RUN']
    data = photographs().subset(per_class=64*max(1, args.batches//10)//8, splits=('train', 'valid', 'test'))
    warnings.simplefilter('ignore')
    dls = loaders(data, budget=1e-3)
    learn = learner(dls, cbs=[Checkpoint(args.folder/f'{name}.safetensors', resume=True), Log(args.folder/f'{name}.log')])
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(3)
    weights = zlib.crc32(b''.join(o.detach().numpy().tobytes() for o in learn.model.state_dict().values()))
    history = learn.history().filter(regex='loss|accuracy').round(12).values.tolist()
    (args.folder/f'{name}.json').write_text(json.dumps(dict(weights=weights, history=history, left_out=len(data.left_out))))

def orders():
    "Reading the decoded pictures with an empty cache of the system: in random order, and as the loader does it"
    from cnnfast.core.rows import block_order, read_rows
    data = photographs()
    store = data.beyond_memory()
    file,rows,rng = store.file,data.splits['train'],np.random.default_rng(0)
    rows = rows[file.status(rows) == 1]
    def speed(order, at_once, announce=True):
        os.posix_fadvise(file.file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        for i in range(0, 4*n, at_once):
            out = np.empty((at_once, *file.shape), np.uint8)
            read_rows(file, rows[order[i:i+at_once]], out, announce)
        return 4*n/(time.perf_counter()-start)
    n = store.at_once(64)*64
    ways = {'random, picture by picture':lambda: speed(rng.permutation(len(rows)), 1, False),
            'random, batches of 64 sorted and announced':lambda: speed(rng.permutation(len(rows)), 64),
            'stretch by stretch, read at once, sorted':lambda: speed(store.shuffled(rows, 64, rng), n, False),
            'stretch by stretch, read at once, sorted and announced (as it is)':lambda: speed(store.shuffled(rows, 64, rng), n)}
    rates = {k:[] for k in ways}
    for _ in range(args.rounds):
        for k,f in ways.items(): rates[k].append(f())
    for k,v in rates.items(): say(f'{k}: {statistics.median(v):,.0f} pictures/s ({min(v):,.0f} to {max(v):,.0f})')

print(f'{args.part}: {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, '
      f'Python {platform.python_version()}', flush=True)
dict(first=first, epoch=begin, second=lambda: begin(args.batches), speed=compare_speeds, train=train, order=orders)[args.part]()
