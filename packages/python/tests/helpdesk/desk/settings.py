"""The project's settings; `# gate` marks what the move behind the gate has added or changed."""

import os
from pathlib import Path

from cedargate import Entity

SECRET_KEY = "of the tests"
DEBUG = False
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = "desk.urls"
AUTH_USER_MODEL = "people.Person"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(os.environ.get("DESK_DATA", ".")) / "desk.sqlite3"}}
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "rest_framework",
    "people",
    "tickets",
]
MIGRATION_MODULES = {app.rpartition(".")[2]: None for app in INSTALLED_APPS}
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "cedargate.django.IdentityMiddleware",  # gate
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "desk.middleware.CurrentUser",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")  # gate
AUTHENTICATION_BACKENDS = ["cedargate.django.backends.GateBackend"]  # gate
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["cedargate.django.rest.GateAuthentication"],  # gate
    "DEFAULT_PERMISSION_CLASSES": ["cedargate.django.rest.GatePermission"],  # gate
}
CEDARGATE = {  # gate
    "URL": os.environ.get("CEDARGATE_APP_URL", "http://gate.invalid"),
    "ISSUER": os.environ.get("CEDARGATE_APP_ISSUER", "https://shop.example.com"),
    "AUDIENCE": os.environ.get("CEDARGATE_APP_AUDIENCE", "http://127.0.0.1:3000"),
    "PUBLIC": ["/up"],
    "PORTALS": {"customer": "/portal/customer", "admin": "/portal/admin"},
    "ADMIN": {
        "action": "viewAccount",
        "resource": Entity("Account", "site", {"tenant": Entity("Tenant", "acme"), "user": Entity("User", "none")}),
    },
}
