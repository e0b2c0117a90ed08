"""Exported models behind HTTP and WebSocket, with a page to talk to them."""
