"""What loading costs: pictures per second beside fastai's loader, starts, the check for duplicates, and a million files.

    python benchmarks/loading.py --cifar cifar10.tgz --tiny tiny-imagenet-200-part-a.tgz tiny-imagenet-200-part-b.tgz

Loaders read, shift, mirror and normalise the training pictures and give batches of 512; nothing trains. They run in turn, `--rounds`
times; the median counts. Each part runs in a process of its own, so that its peak memory is its own.
"""
import argparse, os, platform, resource, shutil, statistics, subprocess, sys, tempfile, time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('--cifar', help='CIFAR-10 on disk: a folder or an archive; by default downloaded')
parser.add_argument('--tiny', nargs='+', help='Tiny ImageNet on disk: a folder, or the archives that are its parts; by default downloaded')
parser.add_argument('--parts', nargs='+', default=['cifar10', 'tiny_imagenet', 'check', 'files'],
                    help='what to measure; by default %(default)s')
parser.add_argument('--bs', type=int, default=512, help='batch size')
parser.add_argument('--rounds', type=int, default=5, help='how often each loader runs')
parser.add_argument('--fastai-pictures', type=int, default=10_000, help='pictures that fastai\'s loader reads in each round')
parser.add_argument('--files', type=int, nargs='+', default=[10_000, 100_000, 1_000_000],
                    help='how many files to list, split and summarise')
parser.add_argument('--part', help=argparse.SUPPRESS)
args = parser.parse_args()

if not args.part:
    with tempfile.TemporaryDirectory() as home:
        for part in args.parts:
            subprocess.run([sys.executable, *sys.argv, '--part', part], check=True,
                           env={**os.environ, 'CNNFAST_HOME':home, 'PYTHONWARNINGS':'ignore'})
    sys.exit()

from cnnfast import *
from cnnfast.data.store import channel_stats

def pictures_per_second(dl, n=math.inf):
    "The speed of `dl` over its first `n` pictures"
    seen,start = 0,time.perf_counter()
    for xb,_ in dl:
        seen += len(xb)
        if seen >= n: break
    return seen/(time.perf_counter()-start)

def seconds(f):
    start = time.perf_counter()
    res = f()
    return res,time.perf_counter()-start

def peak_mb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**10

def fastais(data, num_workers):
    "The training loader that a fastai user would build: `ImageBlock`, files opened one by one"
    tfms = [*data.augmentations(), Normalize.from_stats(*channel_stats(data.decoded()[1][data.splits['train']], data.size**2))]
    block = DataBlock((ImageBlock, CategoryBlock), get_y=data.get_y, splitter=IndexSplitter(data.splits['valid']), batch_tfms=tfms)
    return block.dataloaders(list(data.items), bs=args.bs, num_workers=num_workers).train

def loaders(get):
    "Decoding, next start, and the loaders beside each other"
    data,opening = seconds(get)
    _,decoding = seconds(data.decoded)
    ours,start = seconds(lambda: (dls := get().dataloaders(bs=args.bs), dls.one_batch())[0])
    print(f'{data}\nopening, unpacked first where it is an archive: {opening:.1f} s; '
          f'decoding {len(data.items):,} pictures once: {decoding:.1f} s ({len(data.items)/decoding:,.0f} pictures/s); '
          f'next start, to the first batch: {start:.2f} s')
    rates,lazy = {'MemoryDL':[], 'fastai, 2 workers':[], 'fastai, no workers':[]},{w:fastais(data, w) for w in (2, 0)}
    pictures_per_second(ours.train)
    for _ in range(args.rounds):
        rates['MemoryDL'].append(pictures_per_second(ours.train))
        rates['fastai, 2 workers'].append(pictures_per_second(lazy[2], args.fastai_pictures))
        rates['fastai, no workers'].append(pictures_per_second(lazy[0], args.fastai_pictures))
    for k,v in rates.items(): print(f'{k:20} {statistics.median(v):10,.0f} pictures/s   ({min(v):,.0f} to {max(v):,.0f})')
    best = max(statistics.median(rates[k]) for k in rates if k != 'MemoryDL')
    print(f'ratio to the faster of fastai\'s: {statistics.median(rates["MemoryDL"])/best:.1f}\n')

def plant(root):
    "Copy a picture, save another again and 2% brighter, cut a third off; where each lies, and its twin"
    test,train = sorted((root/'test'/'cat').iterdir()),sorted((root/'train'/'cat').iterdir())
    copy,near,cut = [root/'train'/'cat'/f'planted-{o}.jpg' for o in ('copy', 'near', 'cut')]
    copy.write_bytes(test[0].read_bytes())
    Image.open(train[7]).point(lambda o: min(255, round(o*1.02))).save(near, quality=85)
    cut.write_bytes(train[8].read_bytes()[:600])
    return dict(copy=(copy, test[0]), near=(near, train[7])),cut

def check():
    "`data.check()` on CIFAR-10 with planted mistakes"
    with tempfile.TemporaryDirectory() as tmp:
        root = shutil.copytree(cifar10(args.cifar).path, Path(tmp)/'cifar10', copy_function=os.link)
        twins,cut = plant(root)
        data = cifar10(root)
        _,decoding = seconds(data.decoded)
        found,looking = seconds(data.check)
    pairs = {frozenset((str(data.items[int(a)]), str(data.items[int(b)]))):k
             for a,b,k in zip(found.pairs.a, found.pairs.b, found.pairs.kind)}
    print(f'check of {len(data.items):,} pictures: {looking:.1f} s, and {decoding:.1f} s of decoding the first time; '
          f'peak memory {peak_mb():,.0f} MB')
    for k,(a,b) in twins.items():
        print(f'planted {k}: {"found as " + pairs[frozenset((str(a), str(b)))] if frozenset((str(a), str(b))) in pairs else "MISSED"}')
    print(f"planted cut: {'found' if str(cut) in {str(data.items[i]) for i in found.unreadable} else 'MISSED'}")
    print(found, '\n')

def files():
    "Listing, splitting and summarising folders of many files, which are links to a few pictures"
    for n in args.files:
        with tempfile.TemporaryDirectory() as tmp:
            for c in range(100):
                (d := Path(tmp)/f'class_{c:03}').mkdir()
                Image.new('RGB', (32, 32), (c, 2*c, 100)).save(d/'0.png')
                for i in range(1, n//100): os.link(d/'0.png', d/f'{i}.png')
            data,listing = seconds(lambda: image_folder(tmp))
            _,summary = seconds(data.summary)
            print(f'{n:9,} files: listed and split in {listing:.2f} s, summarised in {summary:.2f} s; '
                  f'{(listing+summary)/n*1e6:.1f} µs a file; peak memory {peak_mb():,.0f} MB')

print(f'{args.part}: {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}, '
      f'{default_device()}', flush=True)
{'cifar10':lambda: loaders(lambda: cifar10(args.cifar)), 'tiny_imagenet':lambda: loaders(lambda: tiny_imagenet(args.tiny)),
 'check':check, 'files':files}[args.part]()
