"""A task's life touches fewer indexes: those that hold few rows are partial, and two are gone.

`alone` has a default in the database too: code of before this migration, which runs on while a new
version is deployed, makes rows that say nothing of it. On PostgreSQL and MariaDB adding it touches
no row.
"""

from typing import Any

import django.db.models.deletion
from django.db import migrations, models


def _whole(task: Any) -> tuple[models.Index, list[models.UniqueConstraint]]:
    """Of what can't be partial: the status leads where it was the condition; nobody is refused for NULL."""
    expiring = models.Index(fields=["status", "expires_at"], name="cq_task_expiring")
    unique = [
        models.UniqueConstraint(fields=constraint.fields, name=constraint.name)
        for constraint in task._meta.constraints
    ]
    return expiring, unique


def make_whole(apps: Any, schema_editor: Any) -> None:
    """MariaDB and MySQL make a whole index of a partial one, and nothing of a partial unique one."""
    if schema_editor.connection.features.supports_partial_indexes:
        return
    task = apps.get_model("cq", "Task")
    expiring, unique = _whole(task)
    schema_editor.remove_index(task, expiring)  # by its name
    schema_editor.add_index(task, expiring)
    for constraint in unique:
        schema_editor.add_constraint(task, constraint)


def drop_whole(apps: Any, schema_editor: Any) -> None:
    """The way back: what Django does not know of."""
    if schema_editor.connection.features.supports_partial_indexes:
        return
    task = apps.get_model("cq", "Task")
    for constraint in _whole(task)[1]:
        schema_editor.remove_constraint(task, constraint)


class Migration(migrations.Migration):

    dependencies = [
        ('cq', '0001_initial'),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='task',
            options={'base_manager_name': 'objects', 'ordering': ('-id',)},
        ),
        migrations.RemoveIndex(
            model_name='task',
            name='cq_task_submitted',
        ),
        migrations.AddField(
            model_name='task',
            name='alone',
            field=models.BooleanField(db_default=False, default=False, help_text='A worker died that held it, and nobody knows whether it had begun: it is claimed by itself, so that the next death tells.'),
        ),
        migrations.RemoveConstraint(
            model_name='task',
            name='cq_task_one_per_slot',
        ),
        migrations.AlterField(
            model_name='task',
            name='unique_key',
            field=models.CharField(blank=True, max_length=200, null=True),
        ),
        migrations.AddIndex(
            model_name='task',
            index=models.Index(condition=models.Q(('expires_at__isnull', False), ('failures', 0), ('rescues', 0), ('status', 'QUEUED')), fields=['expires_at'], name='cq_task_expiring'),
        ),
        migrations.AddIndex(
            model_name='task',
            index=models.Index(condition=models.Q(('parent__isnull', False)), fields=['root'], name='cq_task_tree'),
        ),
        migrations.AddConstraint(
            model_name='task',
            constraint=models.UniqueConstraint(condition=models.Q(('repeating_task__isnull', False)), fields=('repeating_task', 'slot'), name='cq_task_one_per_slot'),
        ),
        migrations.AddConstraint(
            model_name='task',
            constraint=models.UniqueConstraint(condition=models.Q(('unique_key__isnull', False)), fields=('unique_key',), name='cq_task_one_per_key'),
        ),
        migrations.RunPython(make_whole, drop_whole, atomic=False),
        # Last: on the way back MySQL's editor would otherwise make these keys' indexes twice.
        migrations.AlterField(
            model_name='task',
            name='repeating_task',
            field=models.ForeignKey(blank=True, db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='tasks', to='cq.repeatingtask'),
        ),
        migrations.AlterField(
            model_name='task',
            name='root',
            field=models.ForeignKey(blank=True, db_constraint=False, db_index=False, help_text='The top task of its tree; of a top task, itself.', null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='cq.task'),
        ),
    ]
