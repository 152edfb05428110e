from django.core.management.base import BaseCommand
from tickets.models import Ticket


class Command(BaseCommand):
    def handle(self, *args, **options):
        self.stdout.write(str(Ticket.objects.count()))
