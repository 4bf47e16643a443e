"""The pages for people."""

from __future__ import annotations

from flask import Blueprint, render_template


def blueprint(csrf: str) -> Blueprint:
    """`csrf` is the token that lets this server's own page register plugins; empty: it may not."""
    pages = Blueprint("pages", __name__)

    @pages.get("/")
    def chat_page() -> str:
        return render_template("chat.html", csrf=csrf)

    return pages
