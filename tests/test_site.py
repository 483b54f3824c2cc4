"The docs site has what it links to: pages in the sidebar, figures in the gallery, a report to click through, tutorials that open in Colab."
import json, re
import pytest
import yaml
from conftest import ROOT, sources
from cnnfast.cli.main import _parser

HOST = re.search(r'Documentation = "(.+)"', (ROOT/'pyproject.toml').read_text(encoding='utf-8'))[1]
INSTALL = '''#| hide
import sys
if 'google.colab' in sys.modules: get_ipython().system('pip install -q "cnnfast[slides] @ git+https://github.com/cnnfast/cnnfast"')'''
TUTORIALS = sorted((ROOT/'nbs'/'tutorials').glob('*.ipynb'))
GALLERY = ROOT/'nbs'/'gallery.ipynb'

def prose(nb): return sources(nb, 'markdown')

def test_sidebar_has_every_page():
    "Once, tutorials in their order and the gallery behind them; `test_structure` looks at the topics"
    contents = yaml.safe_load((ROOT/'nbs'/'sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']
    first,tutorials,gallery = contents[:3]
    assert (first, tutorials['section'], gallery) == ('index.ipynb', 'tutorials', 'gallery.ipynb')
    assert tutorials['contents'][1:] == [f'tutorials/{o.name}' for o in TUTORIALS]
    pages = [o for o in (ROOT/'nbs').rglob('*.ipynb') if not any(p[0] in '._' for p in o.relative_to(ROOT).parts)]
    listed = [p for o in contents for p in (o['contents'] if isinstance(o, dict) else [o]) if isinstance(p, str)]
    assert sorted(listed) == sorted(o.relative_to(ROOT/'nbs').as_posix() for o in pages)

@pytest.mark.parametrize('nb', [*TUTORIALS, GALLERY], ids=lambda o: o.stem)
def test_opens_in_colab(nb):
    "A badge below the title (in the title's own cell nbdev would drop it), then what installs cnnfast there, and only there"
    where = f'https://colab.research.google.com/github/cnnfast/cnnfast/blob/main/{nb.relative_to(ROOT).as_posix()}'
    badge = f'[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({where})'
    below = json.loads(nb.read_text(encoding='utf-8'))['cells'][1:3]
    assert [(o['cell_type'], ''.join(o['source'])) for o in below] == [('markdown', badge), ('code', INSTALL)]

def test_index_names_the_tutorials():
    "Each with its title, or how that begins"
    text = prose(ROOT/'nbs'/'index.ipynb')
    assert '(gallery.ipynb)' in text
    for nb in TUTORIALS:
        named = re.search(rf'\[([^\]]+)\]\(tutorials/{nb.name}\)', text)
        assert named and prose(nb).startswith(f'# {named[1]}'), nb.name

def test_gallery_has_every_figure():
    "Of the names that begin with `plot_`, functions and methods; it draws none itself"
    modules = '\n'.join(sources(o, 'code') for o in (ROOT/'nbs').glob('*/*.ipynb'))
    drawn = set(re.findall(r'^def (plot_\w+|show_masks)\(', modules, re.M)) - {'plot_vectors'} # with it others draw
    assert len(drawn) >= 20
    text = sources(GALLERY, 'code')
    assert not [o for o in sorted(drawn) if not re.search(rf'\b{o}\(', text)]
    assert not re.search(r'\b(plt|ax|fig)\b', text)
    assert GALLERY.stat().st_size < 3*10**6

def test_gallery_links_each_figure():
    "Below each heading, the page that explains it"
    for part in re.split('^###? ', prose(GALLERY), flags=re.M)[1:]:
        assert '.ipynb' in part or not part.partition('\n')[2].strip(), part

def test_sample_report_is_published():
    "Its links name what the docs workflow writes into the folder that it publishes, by a command that exists"
    steps = yaml.safe_load((ROOT/'.github'/'workflows'/'docs.yml').read_text(encoding='utf-8'))['jobs']['docs']['steps']
    folder = next(o['with']['publish_dir'] for o in steps if 'publish_dir' in o.get('with', {}))
    run,copy = next(o['run'] for o in steps if 'cnnfast run' in o.get('run', '')).split(' && ')
    out = _parser().parse_args(run.split()[1:]).out
    assert copy == f'cp {out}/report.html {folder}/sample_report.html'
    for nb in (ROOT/'nbs'/'index.ipynb', GALLERY): assert f']({HOST}sample_report.html)' in prose(nb), nb.name
    for nb in (ROOT/'nbs').rglob('*.ipynb'):
        assert set(re.findall(rf'{re.escape(HOST)}([^)\s`]*)', prose(nb))) <= {'sample_report.html'}, nb.name
