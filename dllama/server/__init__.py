"""An HTTP server with OpenAI's API, for one model and many clients.

One thread owns the model and takes requests from a queue (dispatcher.py). Another one speaks HTTP
(app.py). Needs the packages of the extra `serve`.
"""
