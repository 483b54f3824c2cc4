"The wheel and the source archive: complete, valid, and working away from the checkout."
import os, subprocess, sys, tarfile, zipfile
from pathlib import Path
import pytest
from conftest import ROOT

pytest.importorskip('build', reason='needs the package build')

def run(*args, **kwargs):
    res = subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, **kwargs)
    assert res.returncode == 0, res.stdout + res.stderr
    return res.stdout

@pytest.fixture(scope='module')
def dist(tmp_path_factory):
    "Both archives, built of the files that git knows"
    source,out = tmp_path_factory.mktemp('source'),tmp_path_factory.mktemp('dist')
    known = ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
    files = subprocess.run(known, cwd=ROOT, capture_output=True, text=True)
    if files.returncode: pytest.skip('needs a git checkout')
    for o in filter(None, files.stdout.split('\0')):
        if not (ROOT/o).is_file() or o.startswith(('nbs/', 'tests/', 'benchmarks/')): continue
        (source/o).parent.mkdir(parents=True, exist_ok=True)
        (source/o).write_bytes((ROOT/o).read_bytes())
    run('-m', 'build', '--no-isolation', '--outdir', out, source)
    return {o.suffix:o for o in out.iterdir()}

DATA = ['data/cifar10_sample/cifar10_sample.tar.xz', 'models/tiny_resnet/weights.safetensors', 'study/report.html', 'saving/page.html',
        'saving/page.css', 'saving/page.js', 'saving/pictures.js', 'saving/jpeg.js', 'saving/serve.css',
        *(f'saving/space/{o}.j2' for o in ('app.py', 'README.md', 'card.md', 'requirements.txt', 'gitattributes'))]

def test_archives_are_complete_and_valid(dist):
    with zipfile.ZipFile(dist['.whl']) as z: wheel = set(z.namelist())
    with tarfile.open(dist['.gz']) as t: source = {o.split('/', 1)[-1] for o in t.getnames()}
    for o in DATA: assert f'cnnfast/{o}' in wheel and f'cnnfast/{o}' in source
    modules = {str(o.relative_to(ROOT)) for o in (ROOT/'cnnfast').rglob('*.py')}
    assert modules <= wheel and {'setup.py', 'settings.ini', 'README.md', *modules} <= source
    pytest.importorskip('twine', reason='needs the package twine')
    assert run('-m', 'twine', 'check', '--strict', *dist.values()).count('PASSED') == 2

def test_wheel_runs_away_from_the_checkout(dist, tmp_path):
    "Installed elsewhere, it trains on what it brings and writes its report"
    there = tmp_path/'there'
    run('-m', 'pip', 'install', '--quiet', '--no-deps', '--target', there, dist['.whl'])
    env = {**os.environ, 'PYTHONPATH':str(there)}
    said = run('-c', 'import cnnfast; print(cnnfast.__file__); print(cnnfast.cifar10_sample())', cwd=tmp_path, env=env)
    assert said.startswith(str(there)) and '1,000 test' in said
    code = "import sys; from cnnfast.cli.main import main; sys.exit(main(sys.argv[1:]))"
    args = ['run', '--classes', 2, '--per-class', 20, '--models', 'cnn,tiny_resnet', '--epochs', 1, '--out', 'out']
    run('-c', code, *args, cwd=tmp_path, env=env)
    assert (tmp_path/'out'/'report.html').stat().st_size > 10**5
