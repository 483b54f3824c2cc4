"What the tests share: a cache folder of their own, real pictures, and the command as a user starts it."
import io, json, os, subprocess, sys, tarfile, tempfile
from pathlib import Path
from types import SimpleNamespace

_home = tempfile.TemporaryDirectory(prefix='cnnfast-test-')
os.environ['CNNFAST_HOME'] = _home.name # before anything of cnnfast is imported
# files of tests run side by side, each on a core of its own
if 'PYTEST_XDIST_WORKER' in os.environ: os.environ.setdefault('OMP_NUM_THREADS', '1')

import matplotlib
matplotlib.use('Agg')
import pytest
import torch
import cnnfast as package

package.digits # loads all modules, and with them the methods that they add to each other's classes

ROOT = Path(__file__).parent.parent
CIFAR = ROOT.parent/'shared'/'data'/'cifar10.tgz'

TINY = sorted((ROOT.parent/'shared'/'data').glob('tiny-imagenet-200-part-*.tgz'))

needs_tiny = pytest.mark.skipif(len(TINY) < 2, reason='needs ../shared/data/tiny-imagenet-200-part-*.tgz, a real part of Tiny ImageNet')
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
needs_cifar = pytest.mark.skipif(not CIFAR.exists(), reason='needs ../shared/data/cifar10.tgz, real CIFAR-10')

def sources(nb, kind):
    "What stands in the cells of a notebook that are 'code', or 'markdown'"
    return '\n'.join(''.join(c['source']) for c in json.loads(nb.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == kind)

def pytest_unconfigure(): _home.cleanup()

def _words(args): # of a command; without a network, a report holds no model to try, and takes less time
    return [*map(str, args), *(['--no-try'] if args[:1] == ('run',) and '--try' not in args else [])]

def cnnfast(*args, **kwargs):
    "Run the `cnnfast` command in a process of its own"
    exe = Path(sys.executable).with_name('cnnfast')
    return subprocess.run([exe, *_words(args)], capture_output=True, text=True, **kwargs)

def cnnfast_here(*args):
    "Run the `cnnfast` command in this process, without the seconds that imports take"
    import warnings
    from contextlib import redirect_stdout, redirect_stderr
    from cnnfast.cli.main import main
    out,err = io.StringIO(),io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings(): code = main(_words(args))
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())

def fails_with(res, *words):
    "One sentence without a traceback, exit status 2, all of `words` in it"
    assert res.returncode == 2, res.stderr
    lines = [o for o in res.stderr.splitlines() if not o.startswith('cnnfast: warning')]
    assert len(lines) == 1 and lines[0].startswith('cnnfast: error: '), res.stderr
    for o in words: assert o in lines[0], (o, lines[0])

@pytest.fixture
def photos(tmp_path):
    "A folder of 494 real colour pictures in two classes"
    from cnnfast.data.folders import sample_folder
    return sample_folder(tmp_path/'photos')

def make_photographs(root):
    "48 photographs of several shapes, in two class folders below `root`: pieces of two that come with scikit-learn"
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_image
    rng,sides = np.random.default_rng(0),[(300, 200), (200, 300), (240, 240), (320, 180)] # width, height
    for name,file in dict(flower='flower.jpg', temple='china.jpg').items():
        (root/name).mkdir(parents=True)
        photo = Image.fromarray(load_sample_image(file))
        for i in range(24):
            w,h = sides[i % 4]
            x,y = rng.integers(0, photo.width-w),rng.integers(0, photo.height-h)
            photo.crop((x, y, x+w, y+h)).save(root/name/f'{i:02}.jpg', quality=90)
    return root

@pytest.fixture(scope='session')
def photographs(tmp_path_factory): return make_photographs(tmp_path_factory.mktemp('photographs'))

@pytest.fixture(scope='session')
def cifar_2000(tmp_path_factory):
    "2,000 pictures of CIFAR-10, 160 for training and 40 for test of each class, in fastai's layout"
    from cnnfast.data.download import _extract
    root = tmp_path_factory.mktemp('data')
    with tarfile.open(CIFAR) as t:
        for m in t:
            p = Path(m.name)
            if m.isfile() and len(p.parts) == 4 and int(p.stem) < dict(train=160, test=40)[p.parts[1]]: _extract(t, m, root, CIFAR)
    return root/'cifar10'
