"""Repeating tasks fire.

Columns have defaults in the database too: rows of data migrations that stand before this one, and of
code that does not know them yet, say nothing of them.
"""

from typing import Any

import cq.models
import cq.payload
from django.db import migrations, models


def take_the_functions_own(apps: Any, schema_editor: Any) -> None:
    """A priority of 0 was what nobody had chosen: that is NULL now."""
    rows = apps.get_model("cq", "RepeatingTask")._base_manager
    rows.using(schema_editor.connection.alias).filter(priority=0).update(priority=None)


def choose_none(apps: Any, schema_editor: Any) -> None:
    rows = apps.get_model("cq", "RepeatingTask")._base_manager
    rows.using(schema_editor.connection.alias).filter(priority=None).update(priority=0)


class Migration(migrations.Migration):

    dependencies = [
        ('cq', '0002_fewer_indexes'),
    ]

    operations = [
        migrations.CreateModel(
            name='FailedTask',
            fields=[
            ],
            options={
                'verbose_name': 'failed task',
                'proxy': True,
                'indexes': [],
                'constraints': [],
            },
            bases=('cq.task',),
        ),
        migrations.CreateModel(
            name='SuccessfulTask',
            fields=[
            ],
            options={
                'verbose_name': 'successful task',
                'proxy': True,
                'indexes': [],
                'constraints': [],
            },
            bases=('cq.task',),
        ),
        migrations.AddField(
            model_name='repeatingtask',
            name='catch_up',
            field=models.CharField(choices=[('SKIP', 'Skip'), ('ONE', 'One'), ('ALL', 'All')], db_default='ONE', default='ONE', max_length=10),
        ),
        migrations.AddField(
            model_name='repeatingtask',
            name='catch_up_limit',
            field=models.PositiveSmallIntegerField(db_default=100, default=100),
        ),
        migrations.AddField(
            model_name='repeatingtask',
            name='coalesce_by',
            field=models.CharField(choices=[('SCHEDULE', 'Schedule'), ('FUNCTION', 'Function')], db_default='SCHEDULE', default='SCHEDULE', max_length=10),
        ),
        migrations.AddField(
            model_name='repeatingtask',
            name='declared',
            field=cq.models.PayloadField(blank=True, decoder=cq.payload.Decoder, encoder=cq.payload.Encoder, help_text='What code says of it.', null=True),
        ),
        migrations.AddField(
            model_name='repeatingtask',
            name='error',
            field=models.TextField(blank=True, db_default='', default='', help_text='Why it could not fire, the last time.'),
        ),
        migrations.AddField(
            model_name='repeatingtask',
            name='last_skip',
            field=models.DateTimeField(blank=True, help_text='The last slot that did not, as a task was still active.', null=True),
        ),
        migrations.AddField(
            model_name='repeatingtask',
            name='miss_count',
            field=models.IntegerField(db_default=0, default=0, help_text='Slots that passed, and were not made up for.'),
        ),
        migrations.AddField(
            model_name='repeatingtask',
            name='planned',
            field=models.BooleanField(db_default=False, default=False, help_text='Its next run was found: where there is none, there is none.'),
        ),
        migrations.AddField(
            model_name='repeatingtask',
            name='run_count',
            field=models.IntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name='repeatingtask',
            name='skip_count',
            field=models.IntegerField(db_default=0, default=0),
        ),
        migrations.AlterField(
            model_name='repeatingtask',
            name='last_run',
            field=models.DateTimeField(blank=True, help_text='The last slot that became a task.', null=True),
        ),
        migrations.AlterField(
            model_name='repeatingtask',
            name='name',
            field=models.CharField(blank=True, max_length=200, unique=True),
        ),
        migrations.AlterField(
            model_name='repeatingtask',
            name='priority',
            field=models.SmallIntegerField(blank=True, null=True),
        ),
        migrations.RunPython(take_the_functions_own, choose_none),
        migrations.AddIndex(
            model_name='task',
            index=models.Index(condition=models.Q(('repeating_task__isnull', False), ('status__in', ['PENDING', 'QUEUED', 'RETRY', 'RUNNING', 'SCHEDULED', 'WAITING'])), fields=['repeating_task', 'status'], name='cq_task_repeating'),
        ),
    ]
