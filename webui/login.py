"""The login form, and the way out."""

from __future__ import annotations

from importlib import resources
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from webui.access import COOKIE, SESSION_SECONDS, Access

_LARGEST_FORM = 16 * 1024
_WRONG = "Name or password is wrong. 用户名或密码错误。"
_LOGOUT = """<!doctype html><html lang="en"><meta charset="utf-8"><title>vLLM Deck</title>
<form method="post" action="/logout"><button autofocus>Log out 退出</button></form></html>"""


async def login_page(request: Request) -> Response:
    """GET: the form. POST: checks it and sets the session."""
    access: Access = request.app.state.context.access
    if not access.login_required:
        return RedirectResponse("/", status_code=303)
    template = resources.files("webui").joinpath("static/login.html").read_text(encoding="utf-8")
    if request.method != "POST":
        return HTMLResponse(template.replace("<!--message-->", ""))
    body = b""
    async for chunk in request.stream():  # anybody may send here: never more than a form of ours takes
        body += chunk
        if len(body) > _LARGEST_FORM:
            return HTMLResponse(template.replace("<!--message-->", _WRONG), 413)
    form = parse_qs(body.decode("utf-8", "replace"))
    user = await access.check_password(form.get("name", [""])[0], form.get("password", [""])[0])
    if user is None:
        return HTMLResponse(template.replace("<!--message-->", _WRONG), 401)
    response = RedirectResponse("/", status_code=303)
    secure = request.url.scheme == "https"
    response.set_cookie(
        COOKIE, access.new_session(user), max_age=SESSION_SECONDS, httponly=True, samesite="lax", secure=secure
    )
    return response


async def logout(request: Request) -> Response:
    """Forgets the session in this browser. A GET only asks: an image on another page must not log anybody out."""
    if request.method != "POST":
        return HTMLResponse(_LOGOUT)
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(COOKIE)
    return response
