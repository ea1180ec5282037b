"""The first tables: tasks, their log lines, workers, schedules."""

from typing import Any

import cq.models
import cq.payload
import django.db.models.deletion
import django.db.models.functions.datetime
import uuid_utils.compat
from django.db import migrations, models


def put_status_first(apps: Any, schema_editor: Any) -> None:
    """MariaDB and MySQL make whole indexes of partial ones: there, the status must lead."""
    if schema_editor.connection.vendor != "mysql":
        return
    task = apps.get_model("cq", "Task")
    for index in task._meta.indexes:
        if index.name in ("cq_task_claimable", "cq_task_due"):
            schema_editor.remove_index(task, index)
            whole = models.Index(fields=["status", *index.fields], name=index.name)
            schema_editor.add_index(task, whole)


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='RepeatingTask',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=200, unique=True)),
                ('func_name', models.CharField(max_length=200, verbose_name='function')),
                ('kind', models.CharField(choices=[('CRONTAB', 'Crontab'), ('ONCE', 'Once'), ('SECONDS', 'Seconds'), ('MINUTES', 'Minutes'), ('HOURS', 'Hours'), ('DAYS', 'Days'), ('WEEKS', 'Weeks'), ('MONTHS', 'Months'), ('QUARTERS', 'Quarters'), ('YEARS', 'Years')], default='CRONTAB', max_length=10)),
                ('crontab', models.CharField(blank=True, default='* * * * *', max_length=200)),
                ('every', models.PositiveIntegerField(default=1)),
                ('timezone', models.CharField(blank=True, default='', max_length=64)),
                ('args', cq.models.PayloadField(blank=True, decoder=cq.payload.Decoder, default=list, encoder=cq.payload.Encoder)),
                ('kwargs', cq.models.PayloadField(blank=True, decoder=cq.payload.Decoder, default=dict, encoder=cq.payload.Encoder)),
                ('queue', models.CharField(blank=True, default='', max_length=80)),
                ('priority', models.SmallIntegerField(default=0)),
                ('result_ttl', models.DurationField(blank=True, null=True)),
                ('enabled', models.BooleanField(default=True)),
                ('coalesce', models.BooleanField(default=True)),
                ('repeats', models.IntegerField(blank=True, null=True)),
                ('start', models.DateTimeField(blank=True, null=True)),
                ('end', models.DateTimeField(blank=True, null=True)),
                ('next_run', models.DateTimeField(blank=True, db_index=True, null=True)),
                ('last_run', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'ordering': ('name',),
            },
        ),
        migrations.CreateModel(
            name='Worker',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('host', models.CharField(max_length=200)),
                ('pid', models.IntegerField()),
                ('queues', models.JSONField(default=list)),
                ('functions', models.JSONField(default=list, help_text='Names of the task functions it knows.')),
                ('started', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('seen', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), db_index=True)),
            ],
            options={
                'ordering': ('started',),
            },
        ),
        migrations.CreateModel(
            name='Task',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('func_name', models.CharField(max_length=200, verbose_name='function')),
                ('args', cq.models.PayloadField(blank=True, decoder=cq.payload.Decoder, default=list, encoder=cq.payload.Encoder)),
                ('kwargs', cq.models.PayloadField(blank=True, decoder=cq.payload.Decoder, default=dict, encoder=cq.payload.Encoder)),
                ('label', models.CharField(blank=True, default='', max_length=200)),
                ('meta', cq.models.PayloadField(blank=True, decoder=cq.payload.Decoder, default=dict, encoder=cq.payload.Encoder)),
                ('status', models.CharField(choices=[('PENDING', 'Pending'), ('SCHEDULED', 'Scheduled'), ('QUEUED', 'Queued'), ('RUNNING', 'Running'), ('WAITING', 'Waiting'), ('RETRY', 'Retry'), ('SUCCESS', 'Success'), ('FAILURE', 'Failure'), ('INCOMPLETE', 'Incomplete'), ('LOST', 'Lost'), ('REVOKED', 'Revoked'), ('SKIPPED', 'Skipped')], default='QUEUED', max_length=10)),
                ('queue', models.CharField(default='default', max_length=80)),
                ('priority', models.SmallIntegerField(default=0)),
                ('submitted', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('run_after', models.DateTimeField(blank=True, null=True)),
                ('ready_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('expires_at', models.DateTimeField(blank=True, null=True)),
                ('started', models.DateTimeField(blank=True, null=True)),
                ('finished', models.DateTimeField(blank=True, null=True)),
                ('depth', models.SmallIntegerField(default=0)),
                ('parent_run', models.IntegerField(blank=True, help_text="The parent's run that made it; empty: made from outside.", null=True)),
                ('linked', models.BooleanField(default=False, help_text='Its end concerns others than its parent: whoever ends it has to look.')),
                ('previous_run', models.IntegerField(blank=True, help_text="The predecessor's run that chained it; empty: chained from outside.", null=True)),
                ('passes_result', models.BooleanField(default=False, help_text="Its predecessor's result is its first argument.")),
                ('is_errorback', models.BooleanField(default=False, help_text='It was made because its predecessor ended badly.')),
                ('errorbacks', cq.models.PayloadField(blank=True, decoder=cq.payload.Decoder, default=list, encoder=cq.payload.Encoder, help_text='Calls for the case that it ends badly.')),
                ('container', models.CharField(blank=True, choices=[('group', 'group'), ('chain', 'chain')], default='', help_text='It is never executed: its subtasks are its members.', max_length=10)),
                ('members', cq.models.PayloadField(blank=True, decoder=cq.payload.Decoder, default=list, encoder=cq.payload.Encoder, help_text='Of a container that waits: calls, not yet tasks.')),
                ('member_no', models.IntegerField(blank=True, help_text='Its place in the container above it.', null=True)),
                ('atomic', models.BooleanField(default=True)),
                ('rerun_lost', models.BooleanField(default=False)),
                ('fail_fast', models.BooleanField(default=False)),
                ('force_chain', models.BooleanField(default=False)),
                ('retries', models.SmallIntegerField(default=0)),
                ('timeout', models.FloatField(blank=True, null=True)),
                ('result_ttl', models.DurationField(blank=True, null=True)),
                ('prune_at', models.DateTimeField(blank=True, null=True)),
                ('delays', models.JSONField(blank=True, default=dict, help_text='Seconds of run_after and expires, counted from release.')),
                ('options', models.JSONField(blank=True, default=dict)),
                ('unique_key', models.CharField(blank=True, max_length=200, null=True, unique=True)),
                ('concurrency_key', models.CharField(blank=True, default='', max_length=200)),
                ('rate_key', models.CharField(blank=True, default='', max_length=200)),
                ('slot', models.DateTimeField(blank=True, null=True)),
                ('worker_id', models.UUIDField(blank=True, null=True)),
                ('claim_no', models.IntegerField(default=0)),
                ('failures', models.IntegerField(default=0)),
                ('rescues', models.IntegerField(default=0)),
                ('attempts', models.JSONField(blank=True, default=list)),
                ('result', cq.models.PayloadField(blank=True, decoder=cq.payload.Decoder, encoder=cq.payload.Encoder, null=True)),
                ('error', models.TextField(blank=True, default='')),
                ('traceback', models.TextField(blank=True, default='')),
                ('progress_done', models.FloatField(blank=True, null=True)),
                ('progress_total', models.FloatField(blank=True, null=True)),
                ('progress_message', models.TextField(blank=True, default='')),
                ('log_lines', models.JSONField(blank=True, null=True)),
                ('parent', models.ForeignKey(blank=True, db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='subtasks', to='cq.task')),
                ('previous', models.ForeignKey(blank=True, db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='successors', to='cq.task')),
                ('repeating_task', models.ForeignKey(blank=True, db_constraint=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='tasks', to='cq.repeatingtask')),
                ('returned', models.ForeignKey(blank=True, db_constraint=False, db_index=False, help_text='The task that this one returned, and waits for.', null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='returned_by', to='cq.task')),
                ('root', models.ForeignKey(blank=True, db_constraint=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='cq.task')),
            ],
            options={
                'ordering': ('-submitted',),
                'base_manager_name': 'objects',
            },
            bases=(models.Model,),
        ),
        migrations.CreateModel(
            name='LogLine',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('origin', models.UUIDField()),
                ('level', models.SmallIntegerField()),
                ('message', models.TextField()),
                ('timestamp', models.CharField(max_length=40)),
                ('root', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='cq.task')),
            ],
            options={
                'ordering': ('id',),
            },
        ),
        migrations.AddIndex(
            model_name='task',
            index=models.Index(condition=models.Q(('status', 'QUEUED')), fields=['queue', '-priority', 'ready_at', 'id'], name='cq_task_claimable'),
        ),
        migrations.AddIndex(
            model_name='task',
            index=models.Index(condition=models.Q(('status__in', ('SCHEDULED', 'RETRY'))), fields=['ready_at'], name='cq_task_due'),
        ),
        migrations.AddIndex(
            model_name='task',
            index=models.Index(condition=models.Q(('status__in', ('RUNNING', 'WAITING', 'PENDING'))), fields=['status', 'id'], name='cq_task_unfinished'),
        ),
        migrations.AddIndex(
            model_name='task',
            index=models.Index(condition=models.Q(('parent__isnull', False)), fields=['parent', 'status'], name='cq_task_subtasks'),
        ),
        migrations.AddIndex(
            model_name='task',
            index=models.Index(condition=models.Q(('previous__isnull', False)), fields=['previous'], name='cq_task_successors'),
        ),
        migrations.AddIndex(
            model_name='task',
            index=models.Index(condition=models.Q(('returned__isnull', False)), fields=['returned'], name='cq_task_returned_by'),
        ),
        migrations.AddIndex(
            model_name='task',
            index=models.Index(condition=models.Q(('prune_at__isnull', False)), fields=['prune_at'], name='cq_task_prunable'),
        ),
        migrations.AddIndex(
            model_name='task',
            index=models.Index(fields=['submitted'], name='cq_task_submitted'),
        ),
        migrations.AddConstraint(
            model_name='task',
            constraint=models.UniqueConstraint(fields=('repeating_task', 'slot'), name='cq_task_one_per_slot'),
        ),
        migrations.RunPython(put_status_first, migrations.RunPython.noop, atomic=False),
    ]
