"The README says what is so: its examples run, its commands parse, what it names exists, its figures are those of benchmarks/README.md."
import ast, importlib.util, json, os, re, shlex
from pathlib import Path
import matplotlib.pyplot as plt
import pytest
from conftest import ROOT, sources
from cnnfast.cli.main import _parser

README,BENCHMARKS = [(ROOT/o).read_text(encoding='utf-8') for o in ('README.md', 'benchmarks/README.md')]
PROSE = re.sub(r'```.*?```', '', README, flags=re.S)
BLOCKS = re.findall(r'```(\w*)\n(.*?)\n```', README, flags=re.S) # of outputs, the language is empty
SPANS = re.findall(r'`([^`\n]+)`', PROSE)
OPTIONAL = dict(hand_in=('pptx',)) # what a call needs that is not always installed

def commands(text):
    "The `cnnfast` commands in shell code, as lists of arguments"
    for line in text.replace('&&', '\n').splitlines():
        words = shlex.split(line, comments=True)
        if words and Path(words[0]).name == 'cnnfast': yield words[1:]

SHELL = [o for kind,text in BLOCKS if kind == 'sh' for o in commands(text)]
INLINE = [o for span in SPANS for o in commands(span)]

# The Python examples

def lacks(statement):
    "The package that `statement` needs and that is not installed"
    needed = [m for name,modules in OPTIONAL.items() if re.search(rf'\b{name}\(', statement) for m in modules]
    return next((m for m in needed if importlib.util.find_spec(m) is None), None)

def run(code, names):
    "Run each statement of `code`; the value of the last one, where it is an expression"
    value = None
    for node in ast.parse(code).body:
        if lacks(statement := ast.unparse(node)): continue
        try:
            value = eval(statement, names) if isinstance(node, ast.Expr) else exec(statement, names)
        except Exception as e: raise AssertionError(f'in the README, {statement} fails: {type(e).__name__}: {e}') from e
        plt.close('all')
    return value

@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    "What the examples leave behind, run in order in one namespace and an empty folder: names, the folder"
    folder,before,names = tmp_path_factory.mktemp('readme'),os.getcwd(),{}
    os.chdir(folder)
    try:
        for kind,text in BLOCKS:
            if kind == 'python': run(text, names)
    finally: os.chdir(before)
    return names,folder

def test_examples_run(ran):
    "To the end, and they write what they say"
    names,folder = ran
    wanted = {'model'} | ({'hand-in'} if lacks('hand_in()') is None else set())
    assert wanted <= {o.name for o in folder.iterdir()}
    assert names['evaluate'](names['tuned']).metrics['accuracy'] > names['evaluate'](names['learn']).metrics['accuracy'] > 0.2
    assert len(names['comparison'].runs) == 2 and f"```\n{names['data']!r}\n```" in README

def test_it_is_short(): assert len(README.splitlines()) <= 120

def test_calls_in_prose_and_comments_exist(ran):
    "Every function and method that is named with brackets"
    names = ran[0]
    comments = [o for kind,text in BLOCKS if kind == 'python' for o in re.findall(r'#(.*)', text)]
    called = {o for text in [*SPANS, *comments] for o in re.findall(r'(?<![\w/-])([a-zA-Z_]\w*)\(', text)}
    methods = {m for o in list(names.values()) if not isinstance(o, type) for m in dir(type(o))}
    assert len(called) >= 7
    assert not {o for o in called if o not in names and o not in methods}

# The commands

def test_there_are_commands(): assert len(SHELL) >= 7 and len(INLINE) >= 4

@pytest.mark.parametrize('words', SHELL+INLINE, ids=' '.join)
def test_command_parses(words, capsys):
    "Command and options exist, and so do models, levels of augmentation and ways to balance"
    try: args = _parser().parse_args(words)
    except SystemExit as e:
        assert e.code == 0 and words[-1] in ('--help', '--version'), capsys.readouterr().err
        return
    from cnnfast.data.photographs import AUGMENTATIONS
    from cnnfast.data.selection import BALANCE
    from cnnfast.study.recipe import as_recipe
    for o in (getattr(args, 'models', None) or '').split(',') if args.command == 'run' else []: o and as_recipe(o)
    assert getattr(args, 'augment', None) in (None, *AUGMENTATIONS)
    assert {*(getattr(args, 'balance', None) or 'none').split(',')} <= {'none', *BALANCE}

def test_options_in_prose_exist():
    parser = _parser()
    subs = next(o for o in parser._actions if hasattr(o, 'choices') and isinstance(o.choices, dict)).choices.values()
    known = {o for p in (parser, *subs) for o in p._option_string_actions}
    named = {o for span in SPANS if not span.startswith('python ') for o in re.findall(r'(?<!\S)--[a-z][a-z-]*', span)}
    assert {'--resume', '--slides'} <= named
    assert not named-known

# Links and figures

def test_links_lead_somewhere():
    for name in ('README.md', 'benchmarks/README.md'):
        text = (ROOT/name).read_text(encoding='utf-8')
        links = [o.split('#') for o in re.findall(r'\]\(([^)\s]+)\)', text) if not o.startswith('http')]
        assert links
        for o,*anchor in links:
            to = (ROOT/name).parent/o if o else ROOT/name
            assert to.exists() and (not anchor or anchor[0] in anchors(to)), o

SITE = 'https://github.com/cnnfast/cnnfast/blob/main/'
PAGES = [o for o in (ROOT/'nbs').rglob('*.ipynb') if not any(p[0] in '._' for p in o.relative_to(ROOT).parts)]

def slug(heading): return re.sub(r'[^\w\- ]', '', heading.strip().lower()).replace(' ', '-')

def anchors(page):
    "What a link can point at within it: headings and, in a notebook, what it documents"
    nb = page.suffix == '.ipynb'
    found = {slug(o) for o in re.findall(r'^#+ (.+)', sources(page, 'markdown') if nb else page.read_text(encoding='utf-8'), re.M)}
    if nb: found |= {o.lower() for o in re.findall(r'^(?:def|class) (\w+)', sources(page, 'code'), re.M)}
    if nb: found |= {f'{c}.{f}'.lower() for f,c in re.findall(r'^def (\w+)\(self:(\w+)', sources(page, 'code'), re.M)}
    return found

@pytest.mark.parametrize('nb', PAGES, ids=lambda o: f'{o.parent.name}/{o.stem}')
def test_links_of_pages_lead_somewhere(nb):
    "To another page of the docs site, a picture, or a file of the repository by its address; and there to a heading, or a name"
    for o in re.findall(r'\]\(([^)\s]+)\)', sources(nb, 'markdown')):
        link,_,anchor = o.partition('#')
        if link.startswith(SITE): to = ROOT/link.removeprefix(SITE)
        elif link.startswith('http'): continue
        else:
            to = (nb.parent/link).resolve() if link else nb
            assert ROOT/'nbs' in to.parents, o
        assert to.exists() and (not anchor or anchor in anchors(to)), o

@pytest.mark.parametrize('nb', PAGES, ids=lambda o: f'{o.parent.name}/{o.stem}')
def test_commands_of_pages_parse(nb):
    "Those with arguments, in blocks of shell code and in the text"
    text = sources(nb, 'markdown')
    for o in [*re.findall(r'```sh\n(.*?)```', text, re.S), *re.findall(r'`(cnnfast [^`\n]+)`', re.sub(r'```.*?```', '', text, flags=re.S))]:
        for words in commands(o):
            if len(words) > 1 and '--help' not in words: _parser().parse_args(words)

def test_every_notebook_is_linked():
    "In the order of the topics"
    import cnnfast
    table = [o for o in README.splitlines() if o.startswith('| ') and o.split(' | ')[0][2:] in cnnfast._topics]
    linked = [re.sub(r'\d\d_', '', o) for row in table for o in re.findall(r'\(nbs/([\w/]+)\.ipynb\)', row)]
    assert [o.replace('/', '.') for o in linked] == list(cnnfast._modules)

def rows(text): return [o for o in text.splitlines() if o.startswith('|') and not o.startswith('| ---')]

def test_figures_stand_in_the_benchmarks():
    "What the README shows of them is the same there"
    section = README[README.index('## A folder of photographs'):README.index('## What else it does')]
    figures = re.findall(r'\d+\.\d+%', README)
    assert figures == re.findall(r'\d+\.\d+%', section) and 'benchmarks/README.md' in section
    assert not [o for o in figures if o not in BENCHMARKS]

def test_figures_stand_nowhere_else():
    "No other Markdown of the project has rows of theirs"
    measured = {o for o in rows(BENCHMARKS) if re.search(r'\d', o)}
    assert len(measured) > 50 and not measured & set(rows(README))
    for o in (ROOT/'nbs').rglob('*.ipynb'):
        text = o.read_text(encoding='utf-8')
        assert not [r for r in measured if r in text], o.name

@pytest.mark.parametrize('section', re.split(r'^## ', BENCHMARKS, flags=re.M)[1:], ids=lambda o: o.splitlines()[0])
def test_benchmark_says_how_it_was_made(section):
    "Command, date and spread; the scripts and the options that it names are there"
    assert re.search(r'\d{4}-\d\d-\d\d', section) or 'on the same day' in section
    assert re.search(r'[Cc]ommand', section)
    assert re.search('spread|interval|range', section)
    for o in re.findall(r'`([^`\n]+)`', section):
        for words in commands(o): _parser().parse_args(words)
        if o.startswith('python '):
            script,*words = shlex.split(o)[1:]
            source = (ROOT/script).read_text(encoding='utf-8')
            assert all(f"'{w}'" in source for w in words if w.startswith('--')), o
