"""The built-in endpoint: speaks the chat protocol, needs no key, no network and no model.

    describer     a picture -> what was measured in it, and that in words
    completions   a chat request -> a chat completion, or the 400 that it deserves
    server        the same over HTTP, with keys, limits, latency and faults

It is no vision model and says so. It exists to try captionmill, to test it against real HTTP, and
to rehearse a run with the limits of the real endpoint before money is spent.
"""

FAULTS = ("500", "503", "429", "reset", "truncate", "empty", "hang")
