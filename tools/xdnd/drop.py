#!/usr/bin/env python3
"""Drops a file on a window as a file manager does (XDND, version 5), to try drag and drop where nobody holds a mouse.

    python drop.py "Spectral Motion Studio" /films/dance.mp4

Needs python-xlib. Finds the window by its title, sends enter, position and drop to its middle, hands over the path as
text/uri-list when it is asked for, and waits for the window to say that it is done. Exit code 0 means: taken.
"""

import pathlib
import sys
import time

from Xlib import X, display
from Xlib.protocol import event

VERSION = 5
PATIENCE_SECS = 10.0


def find(window, title, types):
    """The window with this title that says it takes drops."""
    name = window.get_wm_name()
    if isinstance(name, bytes):
        name = name.decode(errors="replace")
    if name and title in name and window.get_full_property(types["XdndAware"], X.AnyPropertyType):
        return window
    for child in window.query_tree().children:
        found = find(child, title, types)
        if found:
            return found
    return None


def tell(target, kind, data):
    message = event.ClientMessage(window=target, client_type=kind, data=(32, data))
    target.send_event(message)


def main():
    title, path = sys.argv[1], pathlib.Path(sys.argv[2]).absolute()
    screen = display.Display()
    root = screen.screen().root
    names = [
        "XdndAware", "XdndEnter", "XdndPosition", "XdndStatus", "XdndDrop", "XdndFinished", "XdndSelection",
        "XdndActionCopy", "text/uri-list",
    ]
    types = {name: screen.intern_atom(name) for name in names}
    target = find(root, title, types)
    if target is None:
        sys.exit(f"no window called {title!r} takes drops")
    source = root.create_window(0, 0, 1, 1, 0, X.CopyFromParent)
    source.set_selection_owner(types["XdndSelection"], X.CurrentTime)
    place = target.get_geometry()
    corner = root.translate_coords(target, 0, 0)
    x, y = abs(corner.x) + place.width // 2, abs(corner.y) + place.height // 2
    uris = (path.as_uri() + "\r\n").encode()

    tell(target, types["XdndEnter"], [source.id, VERSION << 24, types["text/uri-list"], 0, 0])
    tell(target, types["XdndPosition"], [source.id, 0, x << 16 | y, X.CurrentTime, types["XdndActionCopy"]])
    screen.flush()
    dropped, begun = False, time.monotonic()
    while time.monotonic() - begun < PATIENCE_SECS:
        if not screen.pending_events():
            time.sleep(0.01)
            continue
        said = screen.next_event()
        if said.type == X.SelectionRequest:
            said.requestor.change_property(said.property, said.target, 8, uris)
            answer = event.SelectionNotify(
                time=said.time, requestor=said.requestor, selection=said.selection, target=said.target,
                property=said.property,
            )
            said.requestor.send_event(answer)
            screen.flush()
        elif said.type == X.ClientMessage and said.client_type == types["XdndStatus"]:
            if not said.data[1][1] & 1:
                sys.exit("the window refuses the drop")
            if not dropped:
                dropped = True
                tell(target, types["XdndDrop"], [source.id, 0, X.CurrentTime, 0, 0])
                screen.flush()
        elif said.type == X.ClientMessage and said.client_type == types["XdndFinished"]:
            print("taken")
            return
    sys.exit("the window said nothing")


if __name__ == "__main__":
    main()
