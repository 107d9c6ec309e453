"""captionmill, the library. It knows nothing of command lines; `jobs` does.

In reading order. Nouns, rules and edges import nouns only; wiring imports anything (tests/test_layers.py).

    nouns    rows        what travels: Row, Picture, ChatRequest, HttpAnswer, Reply, Outcome
             errors      failures, named by what the run does next
             config      every setting: name, type, default, help
             sniff       what a file's bytes say it is
    rules    request     row + pictures -> the body of one chat request
             tokens      what a request will cost in tokens
             limiter     tokens and requests per minute: who may send now
             concurrency how many requests may be in flight, found out while running
             slots       places for them: a semaphore whose size may change
             health      what failures say about the endpoint: go on, hold everybody, or stop
             replies     an HTTP answer -> a Reply
             faults      ... or the named error it amounts to; waits and limits a server tells
             retry       again, how often, after how long
             prices      usage x price -> money
    edges    manifest    folder, CSV, JSONL, Parquet -> Rows
             images      file -> upright picture within bounds
             chat        one POST
             journal     what is finished, and in which part
             parts       the dataset: schema, write, rename, read back
             folder      the run folder: paths, its one writer, run.json
    wiring   checkpoint  journal first, Parquet from it
             ahead       pictures prepared ahead, bounded in number and bytes
             runner      one row's journey, N rows at a time
             mill        a whole run
             report      what a run came to
             pages       the same as web pages
    apart    endpoint/   the built-in endpoint: describer, completions, server
"""

__version__ = "0.1.0"
