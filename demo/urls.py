"""The counting pages, and the admin."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("", include("demo.counting.urls")),
    path("admin/", admin.site.urls),
]
