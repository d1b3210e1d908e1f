"""An HTTP server with the APIs of OpenAI, Anthropic and Ollama, for one model and many clients.

One thread owns the model and takes jobs from a queue (queue/dispatcher.py). Another one speaks HTTP
(http/service.py). Needs the packages of the extra `serve`.
"""
