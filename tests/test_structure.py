"The architecture stays what the map in `cnnfast/__init__.py` says, and code stays readable."
import ast, json, re
from importlib import import_module
from pathlib import Path
import pandas as pd
import pytest
import yaml
import cnnfast
from conftest import ROOT

MODULES = {m:ROOT/'cnnfast'/(m.replace('.', '/')+'.py') for m in cnnfast._modules}
NOTEBOOKS = {f'{topic}.{name}':ROOT/'nbs'/topic/f'{i:02}_{name}.ipynb' for topic,names in cnnfast._topics.items() for i,
             name in enumerate(names)}
ORDER = list(cnnfast._modules)
TOPICS = list(cnnfast._topics)

def code_cells(path):
    return [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
def exported(path): return [o for o in code_cells(path) if re.match(r'#\|\s*exporti?\n', o)]

def own_imports(m):
    "(module, names) of each import of ours in module `m`, those inside functions included"
    here,res = m.split('.'),[]
    for n in ast.walk(ast.parse(MODULES[m].read_text(encoding='utf-8'))):
        if isinstance(n, ast.Import): res += [(a.name[len('cnnfast.'):], []) for a in n.names if a.name.startswith('cnnfast.')]
        if not isinstance(n, ast.ImportFrom): continue
        if n.level: base = here[:len(here)-n.level] + (n.module or '').split('.')*bool(n.module)
        elif (n.module or '').split('.')[0] == 'cnnfast': base = n.module.split('.')[1:]
        else: continue
        names = [a.name for a in n.names]
        if '.'.join(base) in MODULES: res.append(('.'.join(base), names))
        else: res += [('.'.join([*base, o]), []) for o in names if '.'.join([*base, o]) in MODULES]
    return res

def test_folders_are_the_map():
    "Each module and each notebook stands where the map says, and nothing else does"
    by_hand = '__init__.py', '__main__.py', '_modidx.py'
    assert {o for o in (ROOT/'cnnfast').rglob('*.py') if o.name not in by_hand} == set(MODULES.values())
    assert {o for o in (ROOT/'nbs').glob('*/*.ipynb') if o.parent.name in TOPICS} == set(NOTEBOOKS.values())
    for m,nb in NOTEBOOKS.items(): assert any(re.match(rf'#\|\s*default_exp {re.escape(m)}$', o) for o in code_cells(nb)), nb

def test_sidebar_is_the_map():
    "The docs site has a section for each topic, in reading order, each with one sentence"
    index,*sections = yaml.safe_load((ROOT/'nbs'/'sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']
    assert index == 'index.ipynb'
    topics = [o for o in sections if isinstance(o, dict) and o['section'] in TOPICS]
    assert [o['section'] for o in topics] == TOPICS
    for o in topics:
        says,*pages = o['contents']
        assert says['text'].endswith('.')
        assert pages == [str(NOTEBOOKS[m].relative_to(ROOT/'nbs')) for m in MODULES if m.startswith(f"{o['section']}.")]

@pytest.mark.parametrize('m', MODULES)
def test_arrows_run_one_way(m):
    "A module imports only from those before it in the map, so there is no circle"
    for other,_ in own_imports(m): assert ORDER.index(other) < ORDER.index(m), f'{m} imports {other}, which stands below it'

@pytest.mark.parametrize('m', MODULES)
def test_imports_are_explicit_and_used(m):
    "No star import of ours, and no name of ours that is imported and not used"
    tree = ast.parse(MODULES[m].read_text(encoding='utf-8'))
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    for other,names in own_imports(m):
        assert '*' not in names, f'{m}: star import of {other}'
        assert set(names) <= used, f'{m} imports {sorted(set(names)-used)} from {other} and does not use them'
    for o in code_cells(NOTEBOOKS[m]):
        assert not re.search(r'^\s*from cnnfast[.\w]* import \*', o, re.M), f'star import in {NOTEBOOKS[m].name}'

def test_no_star_import_of_a_module_anywhere():
    "Tests and benchmarks say what they take, too; `from cnnfast import *` is what users write"
    for o in [*(ROOT/'tests').glob('*.py'), *(ROOT/'benchmarks').glob('*.py')]:
        assert not re.search(r'^\s*from cnnfast\.[.\w]+ import \*', o.read_text(encoding='utf-8'), re.M), o

@pytest.mark.parametrize('m', MODULES)
def test_cells_and_modules_have_a_human_size(m):
    "One idea, one cell; a module of much more than 300 lines is two"
    cells = exported(NOTEBOOKS[m])
    for o in cells: assert o.count('\n') < 60, f"{NOTEBOOKS[m].name}: {o.count(chr(10))} lines in a cell that begins {o.splitlines()[1]!r}"
    assert sum(o.count('\n') for o in cells) < 320

def test_lines_fit_on_a_screen():
    "140 characters at most, in notebooks, tests, benchmarks and what is written by hand"
    files = {nb:'\n'.join(code_cells(nb)) for nb in [*(ROOT/'nbs').rglob('*.ipynb')]
             if not any(p[0] in '._' for p in nb.relative_to(ROOT).parts)}
    files |= {o:o.read_text(encoding='utf-8') for d in ('tests', 'benchmarks') for o in (ROOT/d).glob('*.py')}
    files |= {o:o.read_text(encoding='utf-8') for o in (ROOT/'setup.py', ROOT/'cnnfast'/'__init__.py')}
    long = [f'{f.name}: {line.strip()[:60]}…' for f,text in files.items() for line in text.splitlines() if len(line) > 140]
    assert not long, f'{len(long)} lines: {long[:5]}'

def test_public_names():
    "What the star import gives, name by name: what was there when all modules lay in one folder, what became of it, and why"
    t = pd.read_csv(ROOT/'tests'/'public_names.csv', dtype=str, keep_default_na=False)
    before = t[t.name != '']
    assert len(before) == before.name.nunique() == 244
    now = {n for m in MODULES for n in import_module(f'cnnfast.{m}').__all__ if not m.startswith('cli.')}
    assert now == set(t.now) - {''}
    explained = t[(t.name != t.now)]
    assert (explained.why.str.len() > 10).all()
    for o in now: assert getattr(cnnfast, o) is not None

def test_contributing_shows_the_map():
    "Every topic, in order; and the worked example runs, to a trained model and to the command's name"
    text = (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8')
    assert re.findall(r'^\| `(\w+)` \|', text, re.M) == TOPICS
    names = {k:getattr(cnnfast, k) for k in cnnfast.__all__}
    exec(re.search(r'```python\n(.*?)```', text, re.S)[1], names)
    data = names['photographs']()
    assert len(data) == 494 and [len(o) for o in data.splits.values()] == [346, 98, 50]
    learn = cnnfast.scratch_learner(data.dataloaders(bs=32), 'cnn', seed=0)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2)
    assert cnnfast.evaluate(learn).metrics['accuracy'] > 0.8
    with pytest.MonkeyPatch.context() as m:
        m.setitem(cnnfast.DATASETS, 'photographs', names['photographs'])
        assert len(cnnfast.load_data('photographs', size=64)) < 494
