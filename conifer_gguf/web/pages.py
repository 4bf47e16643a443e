"""The pages for people."""

from __future__ import annotations

from flask import Blueprint, render_template

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
def chat_page() -> str:
    return render_template("chat.html")
