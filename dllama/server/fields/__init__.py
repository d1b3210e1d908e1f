"""Fields of requests that several APIs have, checked as they are taken."""
