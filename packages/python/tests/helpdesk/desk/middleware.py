"""The current user of the thread, for code that has no request."""

import threading

state = threading.local()


class CurrentUser:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        state.user = request.user if request.user.is_authenticated else None
        return self.get_response(request)
