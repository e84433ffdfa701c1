DROP TABLE page_marks;
