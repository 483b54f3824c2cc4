"""A served model under load, on this machine: many clients at once, and hostile uploads in between; how many requests it answers and how
fast, what fails, and what memory it takes.

    python benchmarks/serve.py --scenes intel-scenes.tgz --clients 50 --seconds 60
"""
import argparse, os, platform, socket, subprocess, sys, tempfile, threading, time, warnings
warnings.filterwarnings('ignore')
import io, psutil, requests
from cnnfast import *
from cnnfast.saving.uploads import Limits

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('--scenes', required=True, help='the six kinds of scenes, on disk: a folder or an archive')
parser.add_argument('--work', help='a folder for the model, which is trained once; by default a temporary one')
parser.add_argument('--clients', type=int, default=50, help='each asks again as soon as it is answered')
parser.add_argument('--seconds', type=int, default=60)
parser.add_argument('--hostile', type=float, default=1, help='seconds between hostile uploads; 0: none')
args = parser.parse_args()
work = Path(args.work or tempfile.mkdtemp())

def saved(im, kind, **kwargs):
    im.save(buf := io.BytesIO(), kind, **kwargs)
    return buf.getvalue()

def hostile_uploads(picture):
    "What no server should do more with than say why not: name -> files"
    return {'a hundred megapixels':[('large.png', saved(Image.new('1', (10_000, 10_000)), 'png'))],
            'a gigapixel':[('huge.png', saved(Image.new('1', (40_000, 25_000)), 'png'))],
            'half a file':[('half.jpg', picture[:len(picture)//2])], 'a script named .jpg':[('script.jpg', b'#!/bin/sh\nrm -rf /\n')],
            '10,000 files':[(f'{i}.jpg', picture[:500]) for i in range(10_000)], '30 MB':[('long.jpg', bytes(30*10**6))]}

class Load:
    "Clients, hostile uploads, and what the server's process takes"
    def __init__(self, address, pid, pictures):
        self.address,self.process,self.pictures = address,psutil.Process(pid),pictures
        self.answers,self.errors,self.refused,self.memory,self.end = [],[],[],[],time.time()+args.seconds

    def _post(self, session, files):
        start = time.time()
        res = session.post(f'{self.address}/predict', files=[('files', o) for o in files], timeout=120)
        return res,time.time()-start

    def client(self, i):
        with requests.Session() as session:
            while time.time() < self.end:
                name,data,expected = self.pictures[i % len(self.pictures)]
                i += args.clients
                try: res,seconds = self._post(session, [(name, data)])
                except requests.RequestException as e: self.errors.append(f'{type(e).__name__}: {e}'); continue
                if res.status_code != 200: self.errors.append(f'{res.status_code}: {res.text[:100]}')
                elif np.float32(res.json()['predictions'][0]['probability']) != expected: self.errors.append(f'{name}: another answer')
                else: self.answers.append((time.time(), seconds))

    def stranger(self):
        uploads = list(hostile_uploads(self.pictures[0][1]).items())
        while args.hostile and time.time() < self.end:
            name,files = uploads[len(self.refused) % len(uploads)]
            try: res,seconds = self._post(requests, files); self.refused.append((name, res.status_code, res.json()['error'], seconds))
            except (requests.RequestException, ValueError, KeyError) as e: self.refused.append((name, 0, f'{type(e).__name__}: {e}', 0.))
            time.sleep(args.hostile)

    def watch(self):
        while time.time() < self.end:
            self.memory.append(self.process.memory_info().rss/2**20)
            time.sleep(1)

    def run(self):
        jobs = [threading.Thread(target=self.client, args=(i,)) for i in range(args.clients)]
        jobs += [threading.Thread(target=o) for o in (self.stranger, self.watch)]
        for o in jobs: o.start()
        for o in jobs: o.join()

def report(load, start):
    times,seconds = np.array(load.answers).T
    parts = np.histogram(times, np.linspace(start, start+args.seconds, 7))[0]/(args.seconds/6)
    print(f'{len(times):,} answers, {len(times)/args.seconds:.1f} a second ({parts.min():.1f} to {parts.max():.1f} in sixths of the time); '
          f'median {np.median(seconds):.2f} s, 95th percentile {np.quantile(seconds, 0.95):.2f} s, longest {seconds.max():.2f} s; '
          f'{len(load.errors)} errors {load.errors[:3]}', flush=True)
    m,fifth = np.array(load.memory),max(1, len(load.memory)//5)
    print(f'memory of the server: {np.median(m[fifth:2*fifth]):,.0f} MB in the second fifth of the time, '
          f'{np.median(m[-fifth:]):,.0f} MB in the last; {m.min():,.0f} to {m.max():,.0f} MB in all')
    if not load.refused: return
    t = pd.DataFrame(load.refused, columns=['upload', 'status', 'answer', 'seconds'])
    print(t.groupby('upload').agg(n=('status', 'size'), status=('status', 'unique'), answer=('answer', 'first'),
                                  longest=('seconds', 'max')).to_string())

print(f'{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}')
print(Limits(), flush=True)
scenes = image_folder(args.scenes, size=224)
probe_of = Recipe('tf_efficientnet_lite0', probe=True, size=224, epochs=0)
compare(scenes, {'lite0':probe_of}, seeds=1, out=work/'scenes', resume=True, verbose=False)
folder = work/'scenes'/'lite0'/'seed-0'
files = [scenes.items[int(i)] for i in scenes.splits['test'][:200]]
model = load_model(folder)
pictures = [(o.name, o.read_bytes(), model.predict_proba(o).max()) for o in files]
with socket.create_server(('127.0.0.1', 0)) as s: port = s.getsockname()[1]
with subprocess.Popen([sys.executable, '-m', 'cnnfast', 'serve', folder, '--port', str(port)], stdout=subprocess.PIPE, text=True) as server:
    try:
        server.stdout.readline()
        address = f'http://127.0.0.1:{port}'
        while True:
            try: requests.get(f'{address}/health', timeout=60); break
            except requests.ConnectionError: time.sleep(0.1)
        load,start = Load(address, server.pid, pictures),time.time()
        load.run()
        report(load, start)
        print('afterwards:', requests.get(f'{address}/health', timeout=60).json(), '' if server.poll() is None else 'ended by itself')
    finally: server.terminate()
