"""One page to start, one to watch and read, the numbers that it asks for, and its two buttons."""

from __future__ import annotations

from django.urls import path

from demo.counting import views

app_name = "counting"
urlpatterns = [
    path("", views.home, name="home"),
    path("counts/<uuid:task_id>/", views.count, name="count"),
    path("counts/<uuid:task_id>/state/", views.state, name="state"),
    path("counts/<uuid:task_id>/revoke/", views.revoke, name="revoke"),
    path("counts/<uuid:task_id>/retry/", views.retry, name="retry"),
]
