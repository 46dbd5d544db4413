"""Keeps four connections, or sends bytes over two, and prints what happens as lines of JSON until its standard input ends."""

import json
import os
import sys
import threading
import time

import socketio

URL, TOKEN, TASK = sys.argv[1:]
printing = threading.Lock()


def say(name, event, value=0):
    with printing:
        print(json.dumps({"name": name, "event": event, "value": value}), flush=True)


def connect(client, name, transport, on_connect):
    client.on("connect", lambda: (say(name, "connect"), on_connect()), namespace="/relay")
    client.on("disconnect", lambda reason: say(name, "disconnect", str(reason)), namespace="/relay")
    client.connect(URL, transports=[transport], auth={"token": TOKEN}, namespaces=["/relay"], wait_timeout=10)


def keep(name, transport, sends):
    client = socketio.Client(reconnection_delay_max=2)
    count = iter(range(1, 1 << 30))

    def echo():
        client.emit("echo", next(count), namespace="/relay", callback=lambda back: say(name, "echo", back))

    def send():
        while True:
            time.sleep(0.05)
            try:
                echo()
            except socketio.exceptions.SocketIOError:
                # Not connected now.
                pass

    connect(client, name, transport, (lambda: None) if sends else echo)
    if sends:
        threading.Thread(target=send, daemon=True).start()


def send_bytes(transport):
    client = socketio.Client()

    def send():
        for length in (0, 1, 2, 3, 56, 57, 58, 1000):
            data = bytes(at * 7 % 256 for at in range(length))
            check = lambda back, data=data: say(transport, "same" if back == data else "changed", len(data))
            client.emit("echo", data, namespace="/relay", callback=check)

    connect(client, transport, transport, send)


for way in ("websocket", "polling"):
    if TASK == "binary":
        send_bytes(way)
    else:
        keep(f"{way} idle", way, False)
        keep(f"{way} sending", way, True)
sys.stdin.read()
os._exit(0)
