"""The demo shop's back end with Django, behind the gate: `gunicorn --bind 127.0.0.1:3000 shop.wsgi` in this folder."""

import os
from pathlib import Path

FOLDER = Path(os.environ.get("SHOP_DATA", Path(__file__).parent.parent))
SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "only signs messages of this example; no session, no cookie")
DEBUG = False
# the gate sends its own clients' `Host`; only the gate reaches this app, so it checks the assertion and no names
ALLOWED_HOSTS = ["*"]
USE_TZ = True
APPEND_SLASH = False
ROOT_URLCONF = "shop.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / "shop.sqlite3"}}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "rest_framework", "shop"]
MIDDLEWARE = ["cedargate.django.IdentityMiddleware"]
AUTHENTICATION_BACKENDS = ["cedargate.django.backends.GateBackend"]
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["cedargate.django.rest.GateAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["cedargate.django.rest.IsIdentified"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "EXCEPTION_HANDLER": "shop.views.problem",
}
CEDARGATE = {
    "URL": os.environ.get("CEDARGATE_APP_URL"),
    "ISSUER": os.environ.get("CEDARGATE_APP_ISSUER"),
    "AUDIENCE": os.environ.get("CEDARGATE_APP_AUDIENCE"),
    "PUBLIC": ["/up"],
    "PORTALS": {"customer": "/portal/customer", "admin": "/portal/admin"},
}
