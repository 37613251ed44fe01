"""The few pages of signing a command line in: plain HTML in the dashboard's colours, no script at all."""

from collections.abc import Mapping
from html import escape

_STYLE = """
:root{--accent:#5457e5;--focus:#5457e5;--soft:#5457e514;--bg:#fbfbfc;--panel:#fff;--border:#e6e8ec;--strong:#d5d9e0;
--hover:#f1f2f5;--text:#1a1d23;--dim:#5f6775;--wrong:#c5221f;--shadow:0 1px 2px #1018280d,0 4px 16px #1018280f}
@media (prefers-color-scheme:dark){:root{--focus:#6b70f0;--soft:#6b70f024;--bg:#0f1115;--panel:#14171c;
--border:#22272f;--strong:#30363f;--hover:#1a1e24;--text:#e4e7ec;--dim:#98a0ae;--wrong:#ff8585;
--shadow:0 1px 2px #0006,0 8px 24px #0006}}
*{box-sizing:border-box}
html,body{height:100%;margin:0}
body{font:13px/1.5 Inter,system-ui,sans-serif;color:var(--text);display:grid;place-items:center;padding:24px 16px;
-webkit-font-smoothing:antialiased;
background:radial-gradient(60rem 30rem at 50% -10rem,var(--soft),transparent),var(--bg)}
main{width:100%;max-width:380px;padding:32px;border:1px solid var(--border);border-radius:16px;
background:var(--panel);box-shadow:var(--shadow)}
h1{margin:18px 0 2px;font-size:20px;font-weight:600;line-height:1.35;letter-spacing:-.015em;text-wrap:balance}
p{margin:0 0 16px;color:var(--dim);overflow-wrap:anywhere;text-wrap:pretty}
p:last-child{margin:0}
p.wrong{color:var(--wrong)}
b{color:var(--text);font-weight:600}
.code{font:600 24px/1.4 ui-monospace,monospace;letter-spacing:.08em;text-align:center;margin:0 0 16px;
padding:10px;border:1px solid var(--strong);border-radius:8px;background:var(--bg);color:var(--text)}
label{display:block;margin:0 0 4px;font-weight:500}
input[type=text]{width:100%;height:38px;padding:0 12px;font:15px ui-monospace,monospace;letter-spacing:.06em;
text-transform:uppercase;color:inherit;background:var(--bg);border:1px solid var(--strong);border-radius:6px;
margin:0 0 14px}
input::placeholder{color:var(--dim);opacity:.7}
.row{display:flex;gap:10px}
button{flex:1;height:36px;padding:0 12px;font:inherit;font-weight:600;border:1px solid var(--strong);border-radius:6px;
background:transparent;color:inherit;cursor:pointer}
button:hover{background:var(--hover)}
button.go{background:var(--accent);border-color:var(--accent);color:#fff}
button.go:hover{background:#4648cb}
:focus-visible{outline:2px solid var(--focus);outline-offset:2px}
@media (max-width:480px){main{padding:24px 20px}}
"""

_LOGO = (
    '<svg width="36" height="36" viewBox="0 0 32 32" aria-hidden="true">'
    '<rect width="32" height="32" rx="8" fill="var(--accent)"/>'
    '<path d="M10 8v16M22 8.5 13.5 16 22 23.5" fill="none" stroke="#fff" stroke-width="3.6" '
    'stroke-linecap="round" stroke-linejoin="round"/></svg>'
)


def page(title: str, body: str) -> str:
    """`body` is HTML whose variable parts are escaped already."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)} · KiCI</title><style>{_STYLE}</style></head>"
        f"<body><main>{_LOGO}<h1>{escape(title)}</h1>{body}</main></body></html>"
    )


def message(title: str, text: str) -> str:
    return page(title, f"<p>{escape(text)}</p>")


def _hidden(fields: Mapping[str, str]) -> str:
    return "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in fields.items()
    )


def consent(*, action: str, who: str, asks: str, fields: Mapping[str, str], code: str | None = None) -> str:
    """Approve or deny. `asks` says in words who wants to sign in."""
    shown = "" if code is None else f'<div class="code">{escape(code)}</div>'
    warning = (
        "Approve only if you have just run <b>kici login</b> yourself."
        if code is None
        else "Approve only if your own terminal shows this very code."
    )
    return page(
        "Sign in the command line",
        f"<p>{escape(asks)} wants to use KiCI as <b>{escape(who)}</b>, in all your organizations.</p>{shown}"
        f'<form method="post" action="{escape(action)}">{_hidden(fields)}<p>{warning}</p><div class="row">'
        '<button name="decision" value="deny">Deny</button>'
        '<button class="go" name="decision" value="approve">Approve</button></div></form>',
    )


def enter_code(*, action: str, problem: str | None) -> str:
    told = "" if problem is None else f'<p class="wrong" role="alert">{escape(problem)}</p>'
    return page(
        "Sign in the command line",
        f'<p>Type the code that your terminal shows.</p>{told}<form method="get" action="{escape(action)}">'
        '<label for="user_code">Code</label>'
        '<input id="user_code" name="user_code" type="text" autocomplete="off" spellcheck="false" autofocus '
        'required placeholder="XXXX-XXXX"><div class="row"><button class="go">Continue</button></div></form>',
    )
