"The part of the Hugging Face hub that cnnfast uses, on the loopback address: repositories, commits, files."
import base64, hashlib, http.server, json, re, threading
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

READS,WRITES = 'hf_reads','hf_writes' # tokens

class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args): pass

    def _answer(self, body=b'', status=200, **headers):
        if not isinstance(body, bytes): body = json.dumps(body).encode()
        self.send_response(status)
        for k,o in dict(headers, Content_Length=len(body)).items(): self.send_header(k.replace('_', '-'), str(o))
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(body)
    def _refuse(self, status, code=''): self._answer({'error':'refused'}, status, **({'X_Error_Code':code} if code else {}))

    def _body(self):
        if 'Content-Length' in self.headers: return self.rfile.read(int(self.headers['Content-Length']))
        parts = []
        while (n := int(self.rfile.readline(), 16)): parts.append(self.rfile.read(n)); self.rfile.readline()
        self.rfile.readline()
        return b''.join(parts)

    @property
    def _token(self): return (self.headers.get('Authorization') or '').removeprefix('Bearer ')
    def _may_write(self):
        if not self._token: self._refuse(401)
        elif self._token != WRITES: self._refuse(403)
        return self._token == WRITES

    def _files(self, repo, revision):
        "Those of a repository, or None after saying that there are none"
        s = self.server
        if s.status: return self._refuse(s.status)
        if repo not in s.repos or (repo in s.private and not self._token): return self._refuse(404 if self._token else 401, 'RepoNotFound')
        names = {'main':len(s.repos[repo])-1, **{s.sha(repo, i):i for i in range(len(s.repos[repo]))}}
        if revision not in names: return self._refuse(404, 'RevisionNotFound')
        self.commit = s.sha(repo, names[revision])
        return s.repos[repo][names[revision]]

    def _get(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, path))
        if m := re.fullmatch(r'/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?', path):
            if (files := self._files(m[1], m[3] or 'main')) is None: return
            if m[2] != 'tree':
                return self._answer(dict(id=m[1], sha=self.commit, siblings=[dict(rfilename=o) for o in files]))
            return self._answer([dict(type='file', path=k, size=len(o), oid=hashlib.sha1(o).hexdigest()) for k,o in files.items()])
        if m := re.fullmatch(r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', path):
            if (files := self._files(m[1], m[2])) is None: return
            if m[3] not in files: return self._refuse(404, 'EntryNotFound')
            return self._answer(files[m[3]], ETag=f'"{hashlib.sha1(files[m[3]]).hexdigest()}"', X_Repo_Commit=self.commit)
        self._refuse(404)
    do_GET = do_HEAD = _get

    def do_POST(self):
        s,path,body = self.server,unquote(urlsplit(self.path).path),self._body()
        s.asked.append(('POST', path))
        if path == '/api/validate-yaml':
            bad = 'license: none of yours' in json.loads(body)['content']
            return self._answer(dict(errors=[dict(message='"license" must be one of…')]*bad, warnings=[]), 400 if bad else 200)
        if not self._may_write(): return
        if path == '/api/repos/create':
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if repo in s.repos: return self._answer(dict(url=f'{s.url}/{repo}', error='exists'), 409)
            s.repos[repo] = [{}]
            if asked.get('private') or asked.get('visibility') == 'private': s.private.add(repo)
            return self._answer(dict(url=f'{s.url}/{repo}', id=repo, name=repo))
        if m := re.fullmatch(r'/api/models/(.+)/preupload/main', path):
            files = [dict(path=o['path'], uploadMode='lfs' if o['path'].endswith('.safetensors') else 'regular', shouldIgnore=False)
                     for o in json.loads(body)['files']]
            return self._answer(dict(files=files))
        if path.endswith('.git/info/lfs/objects/batch'):
            return self._answer(dict(transfer='basic', objects=[
                dict(o, actions=dict(upload=dict(href=f"{s.url}/lfs/{o['oid']}"))) for o in json.loads(body)['objects']]))
        if m := re.fullmatch(r'/api/models/(.+)/commit/main', path):
            files,lines = dict(s.repos[m[1]][-1]),[json.loads(o) for o in body.splitlines()]
            for o in lines:
                v = o['value']
                if o['key'] == 'header': s.messages.append(v['summary'])
                if o['key'] == 'file': files[v['path']] = base64.b64decode(v['content'])
                if o['key'] == 'lfsFile': files[v['path']] = s.large[v['oid']]
            s.repos[m[1]].append(files)
            sha = s.sha(m[1], len(s.repos[m[1]])-1)
            return self._answer(dict(commitUrl=f'{s.url}/{m[1]}/commit/{sha}', commitOid=sha, success=True))
        self._refuse(404)

    def do_PUT(self):
        body = self._body()
        oid = hashlib.sha256(body).hexdigest()
        if self.path != f'/lfs/{oid}': return self._refuse(400)
        self.server.large[oid] = body
        self._answer()

@contextmanager
def serve_hub():
    "A hub: `repos` has the files of each commit of each repository, `asked` what was asked for; with `status` it answers nothing else"
    s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
    s.daemon_threads,s.repos,s.private,s.large,s.messages,s.asked,s.status = True,{},set(),{},[],[],None
    s.sha = lambda repo, i: hashlib.sha1(f'{repo} {i}'.encode()).hexdigest()
    s.url = f'http://127.0.0.1:{s.server_port}'
    threading.Thread(target=s.serve_forever, daemon=True).start()
    try: yield s
    finally: s.shutdown(); s.server_close()
