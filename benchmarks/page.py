"""The page that predicts, beside Python: 1,000 real pictures dropped on it in headless Chromium; its size, how fast it opens and predicts;
and what weights in fewer bits cost.

    python benchmarks/page.py --cifar cifar10.tgz --scenes intel-scenes.tgz --photographs hymenoptera.tgz --runtime package
"""
import argparse, base64, json, os, platform, shutil, sys, tempfile, warnings
warnings.filterwarnings('ignore')
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession, SessionOptions
from playwright.sync_api import sync_playwright
from cnnfast import *
from cnnfast.saving.export import compacted, onnx_of

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
for o in ('--cifar', '--scenes', '--photographs'): parser.add_argument(o, required=True, help='on disk: a folder or an archive')
parser.add_argument('--runtime', help='the npm package onnxruntime-web, unpacked; by default the two files are downloaded')
parser.add_argument('--work', help='a folder for the models, which are trained once; by default a temporary one')
parser.add_argument('--pictures', type=int, default=1000)
parser.add_argument('--parts', default='agree,speed,bits')
parser.add_argument('--only', default='', help='only the models in whose title this stands, like lite0')
args = parser.parse_args()
work = Path(args.work or tempfile.mkdtemp())
browser_path = next(o for o in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if o)

DROP = '''async files => {
  const data = new DataTransfer(), bytes = text => Uint8Array.from(atob(text), o => o.charCodeAt(0))
  for (const [name, text] of files) data.items.add(new File([bytes(text)], name))
  const before = cnnfast.results.length, start = performance.now()
  document.getElementById('drop').dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}))
  while (cnnfast.results.length < before + files.length) await new Promise(done => setTimeout(done, 2))
  return (performance.now() - start)/1000
}'''

def model_of(name, data, recipe):
    "The folder of a model, trained the first time"
    out = work/name
    compare(data, {'model':recipe}, seeds=1, out=out, resume=True, verbose=False)
    return out/'model'/'seed-0'

def some(files, n): return [files[i] for i in np.unique(np.linspace(0, len(files)-1, min(n, len(files))).astype(int))]

class Opened:
    "A page in a browser of its own; everything that it asks for is counted"
    def __init__(self, p, path):
        self.browser = p.chromium.launch(executable_path=browser_path, args=['--no-sandbox'])
        self.page,self.asked = self.browser.new_page(),[]
        self.page.set_default_timeout(300_000)
        self.page.on('request', lambda o: self.asked.append(o.url))
        start = time.perf_counter()
        self.page.goto(Path(path).resolve().as_uri())
        self.page.locator('html[data-ready=yes]').wait_for(state='attached')
        self.seconds = time.perf_counter()-start
    def drop(self, files):
        return self.page.evaluate(DROP, [[Path(o).name, base64.b64encode(Path(o).read_bytes()).decode()] for o in files])
    def probabilities(self): return self.page.evaluate('cnnfast.results.map(o => o.probabilities && [...o.probabilities])')
    def close(self): self.browser.close()

def agree(p, name, folder, files):
    "The same pictures in the page and in Python"
    page = Opened(p, work/f'{name}.html')
    for part in chunked(files, 50): page.drop(part)
    theirs,ours = np.array(page.probabilities()),load_model(folder, 'cpu').predict_proba(files)
    same,most = (theirs.argmax(1) == ours.argmax(1)).mean(),np.abs(theirs-ours).max(1)
    outside = [o for o in page.asked if not o.startswith(('file:', 'blob:', 'data:'))]
    print(f'{len(files):,} pictures: the same class for {same:.2%}; probabilities within {most.max():.4f}, median {np.median(most):.6f}; '
          f'requests that left the page: {len(outside)}', flush=True)
    page.close()

def speed(p, name, files):
    times,rates = [],[]
    for _ in range(5):
        page = Opened(p, work/f'{name}.html')
        times.append(page.seconds)
        page.drop(files[:5])
        rates.append(30/page.drop(files[5:35]))
        page.close()
    print(f'opens in {np.median(times):.2f} s ({min(times):.2f} to {max(times):.2f}), then {np.median(rates):.1f} pictures/s '
          f'({min(rates):.1f} to {max(rates):.1f}), {(work/f"{name}.html").stat().st_size/10**6:.1f} MB', flush=True)

def halved(proto):
    "Weights in half precision, for comparison"
    new = onnx.ModelProto(); new.CopyFrom(proto)
    casts = []
    for o in new.graph.initializer:
        w = numpy_helper.to_array(o)
        if w.dtype != np.float32 or w.size < 256: continue
        casts.append(helper.make_node('Cast', [f'{o.name}.half'], [o.name], to=TensorProto.FLOAT))
        o.CopyFrom(numpy_helper.from_array(w.astype(np.float16), f'{o.name}.half'))
    nodes = [*casts, *[onnx.NodeProto.FromString(o.SerializeToString()) for o in new.graph.node]]
    new.graph.ClearField('node'); new.graph.node.extend(nodes)
    return new

def answers(proto, pics):
    (options := SessionOptions()).log_severity_level = 3
    session = InferenceSession(proto.SerializeToString(), options)
    return np.concatenate([session.run(None, {'pictures':o.astype(np.float32)})[0] for o in np.array_split(pics, len(pics)//20)])

def bits(folder, files, labels):
    "What weights in fewer bits cost: size, accuracy, classes that change"
    c = load_model(folder, 'cpu')
    pics = np.stack([np.asarray(c.opener(o)) for o in files]).transpose(0, 3, 1, 2)
    proto,_ = onnx_of(c, fits=False)
    whole,truth = answers(proto, pics),np.array([c.classes.index(o) for o in labels])
    size = len(proto.SerializeToString())
    for name,made in {'32 bits':proto, 'half precision':halved(proto), **{f'{n} bits':compacted(proto, n) for n in (16, 12, 8)}}.items():
        p = answers(made, pics)
        others,right = (p.argmax(1) != whole.argmax(1)).sum(),(p.argmax(1) == truth).mean()
        print(f'  {name}: {len(made.SerializeToString())/size:.3f} of the size, {100*right:.2f}% right, '
              f'{others} of {len(p):,} other classes, probabilities within {np.abs(p-whole).max():.4f}', flush=True)

print(f'{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}', flush=True)
cifar,scenes,photographs = cifar10(args.cifar),image_folder(args.scenes, size=224),image_folder(args.photographs, size=224)
def test_of(data): return [str(data.items[i]) for i in data.splits['test']],[data.vocab[data.targs[i]] for i in data.splits['test']]
cases = {'fast_cnn, CIFAR-10, 32':(cifar.subset(per_class=1500), Recipe('fast_cnn', epochs=4), test_of(cifar)),
         'lite0, scenes, 224':(scenes, Recipe('tf_efficientnet_lite0', probe=True, size=224, epochs=0), test_of(scenes)),
         'lite0, ants and bees, 224':(photographs, Recipe('tf_efficientnet_lite0', probe=True, size=224, epochs=0), None)}
everything = sorted(map(str, photographs.items))
with sync_playwright() as p:
    for title,(data,recipe,test) in cases.items():
        if args.only not in title: continue
        name = re.sub(r'\W+', '-', title)
        folder,files = model_of(name, data, recipe),some(test[0] if test else everything, args.pictures)
        if not (work/f'{name}.html').exists(): write_page(folder, work/f'{name}.html', runtime=args.runtime)
        if 'agree' in args.parts:
            print(f'{title}: ', end=''); agree(p, name, folder, files)
            if name.startswith('fast'): print(f'{title}, photographs of 320 pixels and more: ', end=''); agree(p, name, folder, everything)
        if 'speed' in args.parts: print(f'{title}: ', end=''); speed(p, name, files)
        if 'bits' in args.parts and test:
            print(f'{title}:')
            rows = some(list(range(len(test[0]))), 2000)
            bits(folder, [test[0][i] for i in rows], [test[1][i] for i in rows])
