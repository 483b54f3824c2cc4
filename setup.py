"Hands settings.ini to setuptools; everything else is in pyproject.toml."
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

root = Path(__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(root/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
version = (root/'cnnfast'/'__init__.py').read_text(encoding='utf-8').split('__version__ = ')[1].split('"')[1]
extras = {k:cfg[f'{k}_requirements'].split() for k in ('onnx', 'slides', 'serve', 'backbones', 'distributed')}

setup(version=version, description=cfg['description'], keywords=cfg['keywords'].split(), license=cfg['license'],
      author=cfg['author'], author_email=cfg['author_email'], python_requires='>=' + cfg['min_python'],
      long_description=(root/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
      install_requires=cfg['requirements'].split(), extras_require={**extras, 'dev':sum(extras.values(), cfg['dev_requirements'].split())},
      classifiers=['Programming Language :: Python :: 3', 'Topic :: Scientific/Engineering :: Image Recognition'],
      entry_points=dict(console_scripts=cfg['console_scripts'].split(), nbdev=['cnnfast=cnnfast._modidx:d']))
