"README.md is nbs/index.ipynb as Markdown. `python tests/readme.py` writes it anew."
import json, re
from pathlib import Path

ROOT = Path(__file__).parent.parent

SOURCE = 'https://github.com/cnnfast/cnnfast/blob/main/' # on the docs site, links to what is no page of it go there

def _links(text):
    "Links from the site's index as links from the root of the repository"
    text = text.replace(f']({SOURCE}', '](/')
    return re.sub(r'\]\((?!/|http|#|mailto)', '](nbs/', text).replace('](/', '](')

def _output(o):
    data = o.get('data', {})
    text = o.get('text') or data.get('text/markdown') or data.get('text/plain', '')
    return ''.join(text).rstrip()

def readme(notebook):
    "The Markdown of `notebook`: prose, code, and what the code printed"
    parts = []
    for c in json.loads(Path(notebook).read_text(encoding='utf-8'))['cells']:
        src = ''.join(c['source'])
        if src.startswith('#| hide'): continue
        if c['cell_type'] == 'markdown': parts.append(_links(src)); continue
        code = '\n'.join(o for o in src.splitlines() if not o.startswith('#|'))
        parts.append(f'```python\n{code}\n```')
        parts += [f'```\n{out}\n```' for o in c['outputs'] if (out := _output(o))]
    return '<!-- Made from nbs/index.ipynb by tests/readme.py: edit that notebook instead. -->\n\n' + '\n\n'.join(parts) + '\n'

if __name__ == '__main__': (ROOT/'README.md').write_text(readme(ROOT/'nbs'/'index.ipynb'), encoding='utf-8')
