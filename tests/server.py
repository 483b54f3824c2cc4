"A web server on the loopback address that misbehaves on request."
import http.server, threading, time
from contextlib import contextmanager

class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        s = self.server
        s.asked.append(self.headers.get('Range'))
        start = int(self.headers['Range'][6:-1]) if s.ranges and 'Range' in self.headers else 0
        if start >= len(s.body): return self.send_error(416)
        body = s.body[start:]
        self.send_response(206 if start else 200)
        if start: self.send_header('Content-Range', f'bytes {start}-{len(s.body)-1}/{len(s.body)}')
        if s.length is not False: self.send_header('Content-Length', s.length or len(body))
        self.end_headers()
        fault = s.faults.pop(0) if s.faults else None
        self.wfile.write(body[:fault[1]] if fault else body)
        if fault and fault[0] == 'stall': self.wfile.flush(); s.stopped.wait(20)
    def log_message(self, *args): pass
    def handle(self):
        try: super().handle()
        except (BrokenPipeError, ConnectionResetError): pass

@contextmanager
def serve(
    body, # What every address gives
    faults=(), # For each request in turn: ('cut', bytes) or ('stall', bytes), after which it stops sending
    ranges=True, # Can it go on in the middle?
    length=None, # The Content-Length it claims; False: none
):
    s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
    s.daemon_threads,s.body,s.faults,s.ranges,s.length,s.asked,s.stopped = True,body,list(faults),ranges,length,[],threading.Event()
    threading.Thread(target=s.serve_forever, daemon=True).start()
    s.url = f'http://127.0.0.1:{s.server_port}'
    try: yield s
    finally: s.stopped.set(); s.shutdown(); s.server_close()
