"""What a person types, checked before it becomes a task."""

from __future__ import annotations

from pathlib import Path

from django import forms

from demo.counting.files import STDLIB


class FolderForm(forms.Form):
    folder = forms.CharField(
        max_length=4000,
        initial=str(STDLIB),
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocapitalize": "off"}),
    )

    def clean_folder(self):
        try:
            folder = Path(self.cleaned_data["folder"]).expanduser().resolve()
            is_folder = folder.is_dir()
        except (OSError, RuntimeError, ValueError) as error:
            raise forms.ValidationError(f"This folder can't be read: {error}") from error
        if not is_folder:
            raise forms.ValidationError("There is no such folder on this machine.")
        return folder
