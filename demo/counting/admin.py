"""Reports, to look at."""

from __future__ import annotations

from django.contrib import admin

from demo.counting.models import Report


@admin.register(Report)
class ReportAdmin(admin.ModelAdmin):
    list_display = ["folder", "written", "files", "failed", "lines", "words", "definitions"]

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False
