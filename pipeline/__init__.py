"""captionmill, the library. It knows nothing of command lines; `jobs` does.

A folder a layer, in reading order. Nouns, rules (vision are rules) and edges (pictures are one) import
nouns only; accounts import all of these, and wiring imports anything (tests/test_layers.py).

    nouns/   rows        what travels: Row, Picture, HttpAnswer, Reply, Outcome
             errors      failures, named by what the run does next; the table of their kinds
             money       how an amount is written
             config      every setting: name, type, default, help
             sniff       what a file's bytes say it is
    rules/   request     row + pictures -> the body of one chat request
             tokens      what a request will cost in tokens
             limiter     tokens and requests per minute: how much may be sent now
             pace        ... and how much where nobody said: found out from refusals
             concurrency how many requests may be in flight, found out while running
             health      what failures say about an endpoint: go on, hold everybody, rest, give it up
             response    an HTTP answer -> a Reply, or the named error raised
             error_table ... which error it is; envelopes: what its body says; server_hints: waits and limits
             retry       again, how often, after how long
             prices      usage x price -> money
             usage       usage that cannot be true
             budget      what a run may spend, and what is left of it
             spread      how values are spread
    vision/  families    what size of a picture a model keeps, and how many tokens that is
             models      which model belongs to which family: dated data
             sizes       settings and model -> the size that is sent
    edges/   manifest    folder, CSV, JSONL, Parquet -> Rows
             chat        one POST
             journal     what is finished, and in which part
             parts       the dataset: schema, write, rename, read back
             folder      the run folder: paths, its one writer, run.json
    pictures/            file or URL -> upright picture within bounds: files, remote, decode, colour,
                         encode, metadata, cache, prepare, pool, measure, thumbnail
    accounts/ dataset    the rows of a run as tables, some columns at a time
             plan        what a run will take, before it starts
             left        ... which rows it would ask, with the headers of their pictures
             spent       what it has spent so far: where a budget begins
             report      what runs came to; grouping: by what; anomalies: usage that cannot be true
             report_page the same as a web page; html, plots: what it is made of
             gallery     pages to look through: picture beside caption
    wiring/  checkpoint  journal first, Parquet from it
             ahead       pictures prepared ahead, bounded in number and bytes
             channel     one endpoint: its limits, places and health; one attempt through it
             gate        one line of rows before all endpoints, to whichever has room
             connect     settings and key -> a channel
             runner      one row's journey, N rows at a time
             deadline    when a run is to be over
             live        the state of a run that is going on
             mill        a whole run
             checkup     whether a run folder fits together
             repair      a damaged one -> one that goes on
    endpoint/            the built-in endpoint, apart: describer, completions, server
"""

__version__ = "0.1.0"
